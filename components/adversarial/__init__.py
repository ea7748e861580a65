"""What families with a discriminator share: losses, penalties, differentiable augmentation."""

"""What the tests share: servers, bundles, archives, waiting, running commands."""

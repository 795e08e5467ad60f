"""Taking a trained network elsewhere: artefacts, shared weights, new cameras."""

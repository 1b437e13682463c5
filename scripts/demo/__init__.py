"""The demo: photos to masks, to a trained detector, or through a whole recipe. `bash scripts/demo.sh --help`."""

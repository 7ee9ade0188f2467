"""One public function per file, each behind a command of the same name."""

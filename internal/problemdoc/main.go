// Command problemdoc writes docs/errors.md, the catalog of all errors that a
// user can see, from the kinds of problems declared in the module's source.
// 'make generate' runs it; its test fails where the catalog is stale.
package main

import (
	"fmt"
	"os"
	"path/filepath"
)

func main() {
	if err := write("."); err != nil {
		fmt.Fprintln(os.Stderr, "problemdoc:", err)
		os.Exit(1)
	}
}

const document = "docs/errors.md"

// write replaces the catalog of the module at root.
func write(root string) error {
	kinds, err := collect(os.DirFS(root))
	if err != nil {
		return err
	}
	return os.WriteFile(filepath.Join(root, document), render(kinds), 0o644)
}

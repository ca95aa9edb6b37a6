package main

import (
	"cmp"
	"errors"
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"path"
	"regexp"
	"slices"
	"strconv"
	"strings"
)

// entry is one kind of problem as it is declared.
type entry struct {
	pkg, at           string // package folder; file and line
	code, title, hint string
	retry             bool
}

const problemPackage = "skylift/internal/problem"

var codeForm = regexp.MustCompile(`^[a-z0-9]+(-[a-z0-9]+)+$`)

// collect finds every problem.Kind literal in the module's source, test files
// and test data left out. It errs when one cannot be read from the source,
// lacks something, or has the code of another.
func collect(module fs.FS) ([]entry, error) {
	var kinds []entry
	var errs []error
	err := fs.WalkDir(module, ".", func(name string, d fs.DirEntry, err error) error {
		switch {
		case err != nil:
			return err
		case d.IsDir() && name != "." && (d.Name() == "testdata" || strings.HasPrefix(d.Name(), ".")):
			return fs.SkipDir
		case d.IsDir() || !strings.HasSuffix(name, ".go") || strings.HasSuffix(name, "_test.go"):
			return nil
		}
		text, err := fs.ReadFile(module, name)
		if err != nil {
			return err
		}
		found, err := collectFile(name, text)
		kinds = append(kinds, found...)
		errs = append(errs, err)
		return nil
	})
	slices.SortFunc(kinds, func(a, b entry) int {
		return cmp.Or(cmp.Compare(a.pkg, b.pkg), cmp.Compare(a.code, b.code))
	})
	return kinds, errors.Join(append(errs, err, unique(kinds))...)
}

func collectFile(name string, text []byte) ([]entry, error) {
	fset := token.NewFileSet()
	file, err := parser.ParseFile(fset, name, text, 0)
	if err != nil {
		return nil, err
	}
	local, ok := importName(file)
	if !ok {
		return nil, nil
	}
	var kinds []entry
	var errs []error
	ast.Inspect(file, func(n ast.Node) bool {
		literal, ok := n.(*ast.CompositeLit)
		if !ok || !isKind(literal.Type, local) {
			return true
		}
		e := entry{pkg: path.Dir(name), at: fmt.Sprintf("%s:%d", name, fset.Position(literal.Pos()).Line)}
		if err := e.read(literal); err != nil {
			errs = append(errs, fmt.Errorf("%s: %w", e.at, err))
			return true
		}
		kinds = append(kinds, e)
		return true
	})
	return kinds, errors.Join(errs...)
}

// importName returns what the file calls the problem package, if it imports it.
func importName(file *ast.File) (string, bool) {
	for _, i := range file.Imports {
		if i.Path.Value != strconv.Quote(problemPackage) {
			continue
		}
		if i.Name != nil {
			return i.Name.Name, true
		}
		return path.Base(problemPackage), true
	}
	return "", false
}

func isKind(t ast.Expr, local string) bool {
	s, ok := t.(*ast.SelectorExpr)
	if !ok || s.Sel.Name != "Kind" {
		return false
	}
	x, ok := s.X.(*ast.Ident)
	return ok && x.Name == local
}

// read takes the literal's fields and checks that they are complete.
func (e *entry) read(literal *ast.CompositeLit) error {
	for _, element := range literal.Elts {
		field, ok := element.(*ast.KeyValueExpr)
		if !ok {
			return errors.New("a kind's fields have names")
		}
		name, err := field.Key.(*ast.Ident).Name, error(nil)
		switch name {
		case "Code":
			e.code, err = text(field.Value)
		case "Title":
			e.title, err = text(field.Value)
		case "Hint":
			e.hint, err = text(field.Value)
		case "Retry":
			e.retry, err = truth(field.Value)
		default:
			err = errors.New("the catalog does not know it")
		}
		if err != nil {
			return fmt.Errorf("field %s: %w", name, err)
		}
	}
	switch {
	case !codeForm.MatchString(e.code):
		return fmt.Errorf("code %q is not of the form area-reason", e.code)
	case strings.TrimSpace(e.title) == "":
		return fmt.Errorf("%s has no title", e.code)
	case strings.TrimSpace(e.hint) == "":
		return fmt.Errorf("%s has no hint: say what to do next", e.code)
	}
	return nil
}

// text returns the value of string literals joined by +.
func text(x ast.Expr) (string, error) {
	switch x := x.(type) {
	case *ast.BasicLit:
		return strconv.Unquote(x.Value)
	case *ast.ParenExpr:
		return text(x.X)
	case *ast.BinaryExpr:
		left, err := text(x.X)
		if err != nil || x.Op != token.ADD {
			return "", cmp.Or(err, errLiteral)
		}
		right, err := text(x.Y)
		return left + right, err
	}
	return "", errLiteral
}

var errLiteral = errors.New("it is not written out: the catalog is made from the source")

func truth(x ast.Expr) (bool, error) {
	if name, ok := x.(*ast.Ident); ok && (name.Name == "true" || name.Name == "false") {
		return name.Name == "true", nil
	}
	return false, errLiteral
}

// unique errs for codes that two kinds have.
func unique(kinds []entry) error {
	var errs []error
	first := map[string]entry{}
	for _, k := range kinds {
		if other, ok := first[k.code]; ok {
			errs = append(errs, fmt.Errorf("%s: code %s is taken by %s", k.at, k.code, other.at))
			continue
		}
		first[k.code] = k
	}
	return errors.Join(errs...)
}

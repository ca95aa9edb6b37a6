package walls

import (
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// exits may end the process besides the mains: each stands for one.
var exits = []string{
	"internal/simulator/s3", // Main is the main of the test binary that was executed again as the server
}

// shared are the variables that may hold state, by their folder: each is a turn
// to take at what a library keeps for the whole process.
var shared = map[string]string{
	"internal/simulator/vcenter": "creating", // a model of govmomi's simulator
}

// folder is the syntax of one package's folder, test files included.
type folder struct {
	path  string // below the module's root
	fset  *token.FileSet
	files map[string]*ast.File
}

// loadSource parses all source that was written by hand.
func loadSource(t *testing.T) []*folder {
	t.Helper()
	byPath := map[string]*folder{}
	err := filepath.WalkDir("../..", func(name string, entry fs.DirEntry, err error) error {
		switch {
		case err != nil:
			return err
		case entry.IsDir() && name != "../.." && (entry.Name() == "testdata" || strings.HasPrefix(entry.Name(), ".")):
			return filepath.SkipDir
		case entry.IsDir() || !strings.HasSuffix(name, ".go"):
			return nil
		}
		rel := strings.TrimPrefix(filepath.ToSlash(name), "../../")
		dir := path.Dir(rel)
		if byPath[dir] == nil {
			byPath[dir] = &folder{dir, token.NewFileSet(), map[string]*ast.File{}}
		}
		return byPath[dir].parse(rel, nil)
	})
	if err != nil {
		t.Fatal(err)
	}
	folders := make([]*folder, 0, len(byPath))
	for _, f := range byPath {
		folders = append(folders, f)
	}
	slices.SortFunc(folders, func(a, b *folder) int { return strings.Compare(a.path, b.path) })
	return folders
}

// parse adds a file, unless it is generated; text is nil to read it.
func (f *folder) parse(name string, text any) error {
	from := name
	if text == nil {
		from = filepath.Join("../..", name)
	}
	file, err := parser.ParseFile(f.fset, from, text, parser.ParseComments)
	if err == nil && !ast.IsGenerated(file) {
		f.files[name] = file
	}
	return err
}

func TestSourceKeepsTheHouseRules(t *testing.T) {
	for _, f := range loadSource(t) {
		for _, found := range f.check() {
			t.Error(found)
		}
	}
}

// check returns the places where the folder's source breaks a rule.
func (f *folder) check() []string {
	var found []string
	vars := f.packageVars()
	for name, file := range f.files {
		report := func(at token.Pos, rule string) {
			found = append(found, fmt.Sprintf("%s:%d: %s", name, f.fset.Position(at).Line, rule))
		}
		test := strings.HasSuffix(name, "_test.go")
		checkCalls(file, report, test, test || file.Name.Name == "main" || slices.Contains(exits, f.path))
		if !test {
			checkState(file, vars, shared[f.path], report)
		}
	}
	slices.Sort(found)
	return found
}

func checkCalls(file *ast.File, report func(token.Pos, string), test, mayExit bool) {
	bubbles := imports(file, "testing/synctest")
	ast.Inspect(file, func(n ast.Node) bool {
		switch n := n.(type) {
		case *ast.FuncDecl:
			if n.Name.Name == "init" && n.Recv == nil {
				report(n.Pos(), "no init: what a package needs is made by who uses it, visibly and when it is wanted")
			}
		case *ast.SelectorExpr:
			called := selector(n)
			switch {
			case test && called == "time.Sleep" && !bubbles:
				report(n.Pos(), "no time.Sleep in a test: wait for what happens, or let time pass in a synctest bubble")
			case !mayExit && (called == "os.Exit" || strings.HasPrefix(called, "log.Fatal") || strings.HasPrefix(called, "logrus.Fatal")):
				report(n.Pos(), "no "+called+" outside a main package: it skips every clean-up; return the error")
			}
		}
		return true
	})
}

func imports(file *ast.File, path string) bool {
	return slices.ContainsFunc(file.Imports, func(i *ast.ImportSpec) bool { return i.Path.Value == `"`+path+`"` })
}

// selector returns "x.Name" where x is a package, else nothing.
func selector(s *ast.SelectorExpr) string {
	if x, ok := s.X.(*ast.Ident); ok && x.Obj == nil {
		return x.Name + "." + s.Sel.Name
	}
	return ""
}

// packageVars returns the specifications of the folder's package-level
// variables, those of test files left out.
func (f *folder) packageVars() map[string]*ast.ValueSpec {
	vars := map[string]*ast.ValueSpec{}
	for name, file := range f.files {
		if strings.HasSuffix(name, "_test.go") {
			continue
		}
		for _, decl := range file.Decls {
			if g, ok := decl.(*ast.GenDecl); ok && g.Tok == token.VAR {
				for _, spec := range g.Specs {
					for _, ident := range spec.(*ast.ValueSpec).Names {
						if ident.Name != "_" {
							vars[ident.Name] = spec.(*ast.ValueSpec)
						}
					}
				}
			}
		}
	}
	return vars
}

const noState = "no package-level state: two of a kind in one process must not meet in a variable"

// checkState finds package-level variables that are written by a function, or
// are made to be: locks, pools, atomics. The one called shared may be a lock.
func checkState(file *ast.File, vars map[string]*ast.ValueSpec, shared string, report func(token.Pos, string)) {
	written := func(target ast.Expr) {
		if x := root(target); x != nil && vars[x.Name] != nil && (x.Obj == nil || x.Obj.Decl == vars[x.Name]) {
			report(target.Pos(), noState)
		}
	}
	ast.Inspect(file, func(n ast.Node) bool {
		switch n := n.(type) {
		case *ast.AssignStmt:
			if n.Tok != token.DEFINE {
				for _, target := range n.Lhs {
					written(target)
				}
			}
		case *ast.IncDecStmt:
			written(n.X)
		case *ast.CallExpr:
			if f, ok := n.Fun.(*ast.Ident); ok && (f.Name == "delete" || f.Name == "clear") && f.Obj == nil && len(n.Args) > 0 {
				written(n.Args[0])
			}
		}
		return true
	})
	for _, decl := range file.Decls {
		if g, ok := decl.(*ast.GenDecl); ok && g.Tok == token.VAR {
			ast.Inspect(g, func(n ast.Node) bool {
				switch n := n.(type) {
				case *ast.FuncLit:
					return false
				case *ast.ValueSpec:
					return len(n.Names) != 1 || n.Names[0].Name != shared
				case *ast.SelectorExpr:
					if x := selector(n); strings.HasPrefix(x, "atomic.") || slices.Contains([]string{"sync.Mutex", "sync.RWMutex", "sync.Once", "sync.Map", "sync.Pool", "sync.WaitGroup"}, x) {
						report(n.Pos(), noState)
					}
				}
				return true
			})
		}
	}
}

// root returns the variable that target is a part of: x of x.f[i].
func root(target ast.Expr) *ast.Ident {
	for {
		switch e := target.(type) {
		case *ast.Ident:
			return e
		case *ast.SelectorExpr:
			target = e.X
		case *ast.IndexExpr:
			target = e.X
		case *ast.ParenExpr:
			target = e.X
		case *ast.StarExpr:
			target = e.X
		default:
			return nil
		}
	}
}

func TestTheHouseRulesAreSeenToBeBroken(t *testing.T) {
	const head = "package p\nimport (\"os\"; \"log\"; \"sync\"; \"time\")\n"
	tests := map[string]struct {
		name, text string
		want       int // how many lines break a rule
	}{
		"an init function":                 {"p/a.go", head + "func init() {}", 1},
		"a method called init":             {"p/a.go", head + "type T int\nfunc (T) init() {}", 0},
		"an exit in a package":             {"p/a.go", head + "func f() { os.Exit(1) }", 1},
		"a fatal log in a package":         {"p/a.go", head + "func f() { log.Fatalf(\"\") }", 1},
		"an exit below cmd":                {"cmd/p/a.go", head + "func f() { os.Exit(1) }", 1},
		"an exit in a main":                {"cmd/p/a.go", "package main\nimport \"os\"\nfunc f() { os.Exit(1) }", 0},
		"a sleep in a test":                {"p/a_test.go", head + "func f() { time.Sleep(1) }", 1},
		"a sleep in a package":             {"p/a.go", head + "func f() { time.Sleep(1) }", 0},
		"a sleep in a bubble":              {"p/a_test.go", "package p\nimport (\"time\"; \"testing/synctest\")\nfunc f() { time.Sleep(1) }", 0},
		"a counter":                        {"p/a.go", head + "var n int\nfunc f() { n++ }", 1},
		"an assignment":                    {"p/a.go", head + "var n int\nfunc f() { n = 1 }", 1},
		"a write through a field":          {"p/a.go", head + "var n struct{a []int}\nfunc f() { n.a[0] += 1 }", 1},
		"a cache":                          {"p/a.go", head + "var n = map[int]int{}\nfunc f() { n[1] = 2 }", 1},
		"a deletion":                       {"p/a.go", head + "var n = map[int]int{}\nfunc f() { delete(n, 1) }", 1},
		"a lock":                           {"p/a.go", head + "var mu sync.Mutex", 1},
		"a pool":                           {"p/a.go", head + "var pool = sync.Pool{}", 1},
		"a table that is only read":        {"p/a.go", head + "var n = map[int]int{}\nfunc f() int { return n[1] }", 0},
		"a local of a variable's name":     {"p/a.go", head + "var n int\nfunc f() { n := 1; n = 2; n++ }", 0},
		"a parameter of a variable's name": {"p/a.go", head + "var n int\nfunc f(n int) { n++ }", 0},
		"a value thrown away":              {"p/a.go", head + "var _ int\nfunc f() { _ = 1 }", 0},
		"a generated file":                 {"p/a.go", "// Code generated by x. DO NOT EDIT.\n\npackage p\nfunc init() {}", 0},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			f := &folder{path.Dir(test.name), token.NewFileSet(), map[string]*ast.File{}}
			if err := f.parse(test.name, test.text); err != nil {
				t.Fatal(err)
			}
			if found := f.check(); len(found) != test.want {
				t.Errorf("found %q, want %d", found, test.want)
			}
		})
	}
}

func TestStateIsFoundAcrossFiles(t *testing.T) {
	f := &folder{"p", token.NewFileSet(), map[string]*ast.File{}}
	for name, text := range map[string]string{"p/a.go": "package p\nvar n int", "p/b.go": "package p\nfunc f() { n = 1 }"} {
		if err := f.parse(name, text); err != nil {
			t.Fatal(err)
		}
	}
	if found := f.check(); len(found) != 1 || !strings.HasPrefix(found[0], "p/b.go:2") {
		t.Errorf("found %q", found)
	}
}

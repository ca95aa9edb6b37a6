package walls

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"slices"
	"strings"
	"testing"
)

const module = "skylift"

// graph has every package of the module and of its dependencies.
type graph map[string]*node

type node struct {
	imports []string
	tests   []string // what its test files import; known for the module's packages only
}

// platforms are those on which programs of the module run.
var platforms = []string{"linux", "freebsd"}

// loadGraph asks the go command for the module's graph: what is imported on
// any of the platforms.
func loadGraph(t *testing.T) graph {
	t.Helper()
	g := graph{}
	for _, platform := range platforms {
		list := exec.CommandContext(t.Context(), "go", "list", "-e", "-deps", "-json=ImportPath,Imports,TestImports,XTestImports", module+"/...")
		list.Env = append(os.Environ(), "GOOS="+platform, "CGO_ENABLED=0")
		var stderr bytes.Buffer
		list.Stderr = &stderr
		out, err := list.Output()
		if err != nil {
			t.Fatalf("%s: %v\n%s", list, err, &stderr)
		}
		if err := g.add(bytes.NewReader(out)); err != nil {
			t.Fatal(err)
		}
	}
	if g[module+"/staging"] == nil || g["io"] == nil {
		t.Fatalf("the go command lists %d packages, and not ours", len(g))
	}
	return g
}

// add takes the packages in the go command's answer.
func (g graph) add(r io.Reader) error {
	in := json.NewDecoder(r)
	for {
		var p struct {
			ImportPath                         string
			Imports, TestImports, XTestImports []string
		}
		if err := in.Decode(&p); errors.Is(err, io.EOF) {
			return nil
		} else if err != nil {
			return err
		}
		if g[p.ImportPath] == nil {
			g[p.ImportPath] = &node{}
		}
		n := g[p.ImportPath]
		n.imports = union(n.imports, p.Imports)
		if ours(p.ImportPath) {
			n.tests = union(n.tests, p.TestImports, p.XTestImports)
		}
	}
}

func union(lists ...[]string) []string {
	all := slices.Concat(lists...)
	slices.Sort(all)
	return slices.Compact(all)
}

func ours(path string) bool { return path == module || strings.HasPrefix(path, module+"/") }

// packages returns the paths of the packages that match any pattern, in order.
func (g graph) packages(patterns []string) []string {
	var paths []string
	for path := range g {
		if matchAny(patterns, path) {
			paths = append(paths, path)
		}
	}
	slices.Sort(paths)
	return paths
}

// match reports whether path is what pattern names: one package, or with
// "/..." behind it a package and all below. Patterns of our own packages begin
// with "./" instead of the module's name.
func match(pattern, path string) bool {
	if rest, ok := strings.CutPrefix(pattern, "./"); ok {
		pattern = module + "/" + rest
	}
	if pattern == module+"/..." {
		return ours(path)
	}
	if root, ok := strings.CutSuffix(pattern, "/..."); ok {
		return path == root || strings.HasPrefix(path, root+"/")
	}
	return path == pattern
}

func matchAny(patterns []string, path string) bool {
	return slices.ContainsFunc(patterns, func(pattern string) bool { return match(pattern, path) })
}

// breach is a rule that is broken, and the chain of imports that breaks it.
type breach struct {
	rule  *rule
	chain []string
	test  bool // by a test file of the chain's first package
}

func (b breach) String() string {
	var chain strings.Builder
	for i, path := range b.chain {
		switch {
		case i == 0:
		case i == 1 && b.test:
			chain.WriteString("\n    imports in its tests ")
		default:
			chain.WriteString("\n    imports ")
		}
		chain.WriteString(path)
	}
	return fmt.Sprintf("%s\n  because %s\n  but %s", b.rule.says, b.rule.because, &chain)
}

// check returns what breaks the rule, in order.
func (r *rule) check(g graph) []breach {
	var found []breach
	for _, path := range g.packages(r.from) {
		if matchAny(r.except, path) {
			continue
		}
		if r.closure {
			found = append(found, r.checkClosure(g, path)...)
			continue
		}
		for _, to := range g[path].imports {
			if r.forbids(path, to) {
				found = append(found, breach{rule: r, chain: []string{path, to}})
			}
		}
		for _, to := range g[path].tests {
			if !r.testsMay && r.forbids(path, to) && !slices.Contains(g[path].imports, to) {
				found = append(found, breach{rule: r, chain: []string{path, to}, test: true})
			}
		}
	}
	return found
}

func (r *rule) forbids(from, to string) bool {
	return from != to && matchAny(r.to, to) && !matchAny(r.toExcept, to)
}

// checkClosure finds the shortest chain from root to each forbidden package,
// and does not look behind those.
func (r *rule) checkClosure(g graph, root string) []breach {
	var found []breach
	via := map[string]string{root: ""}
	for queue := []string{root}; len(queue) > 0; queue = queue[1:] {
		path := queue[0]
		if r.forbids(root, path) {
			found = append(found, breach{rule: r, chain: chainTo(via, path)})
			continue
		}
		if g[path] == nil {
			continue
		}
		for _, next := range g[path].imports {
			if _, seen := via[next]; !seen {
				via[next] = path
				queue = append(queue, next)
			}
		}
	}
	return found
}

func chainTo(via map[string]string, path string) []string {
	var chain []string
	for ; path != ""; path = via[path] {
		chain = append(chain, path)
	}
	slices.Reverse(chain)
	return chain
}

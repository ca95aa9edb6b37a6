package main

import (
	"bytes"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"testing/fstest"
)

func TestTheCatalogIsWhatTheSourceSays(t *testing.T) {
	const root = "../.."
	kinds, err := collect(os.DirFS(root))
	if err != nil {
		t.Fatal(err)
	}
	if len(kinds) == 0 {
		t.Fatal("the module declares no problems")
	}
	got, err := os.ReadFile(filepath.Join(root, document))
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(got, render(kinds)) {
		t.Errorf("%s is stale: run 'make generate'", document)
	}
}

const head = "package p\nimport \"skylift/internal/problem\"\n"

func module(files map[string]string) fstest.MapFS {
	m := fstest.MapFS{}
	for name, text := range files {
		m[name] = &fstest.MapFile{Data: []byte(text)}
	}
	return m
}

func TestKindsAreFoundWhereverTheyAreDeclared(t *testing.T) {
	kinds, err := collect(module(map[string]string{
		"b/one.go": head + "var A = &problem.Kind{Code: \"b-two\", Title: \"it | is\", Hint: \"do \" +\n\t\"this\", Retry: true}",
		"b/two.go": head + "var (\n\tB = &problem.Kind{Code: \"b-one\", Title: \"x\", Hint: \"y\"}\n)",
		"a/in.go": "package a\nimport trouble \"skylift/internal/problem\"\n" +
			"func f() *trouble.Kind { return &trouble.Kind{Code: \"a-one\", Title: \"x\", Hint: \"y\"} }",
		"a/other.go":      "package a\nimport \"example.com/problem\"\nvar X = problem.Kind{Code: \"other\"}",
		"a/in_test.go":    head + "var X = problem.Kind{}",
		"testdata/bad.go": "no Go",
		"notes.md":        "no Go",
	}))
	if err != nil {
		t.Fatal(err)
	}
	var codes []string
	for _, k := range kinds {
		codes = append(codes, k.pkg+" "+k.code)
	}
	if want := []string{"a a-one", "b b-one", "b b-two"}; !slices.Equal(codes, want) {
		t.Fatalf("found %q, want %q", codes, want)
	}
	if row := "| `b-two` | it \\| is | do this | yes |\n"; !strings.Contains(string(render(kinds)), row) {
		t.Errorf("%s has no row %q", render(kinds), row)
	}
}

func TestAKindThatUsersCannotBeHelpedWithIsRefused(t *testing.T) {
	for name, test := range map[string]struct{ text, want string }{
		"no hint":              {`problem.Kind{Code: "a-b", Title: "x"}`, "p/p.go:3: a-b has no hint"},
		"an empty hint":        {`problem.Kind{Code: "a-b", Title: "x", Hint: " "}`, "no hint"},
		"no title":             {`problem.Kind{Code: "a-b", Hint: "x"}`, "no title"},
		"no code":              {`problem.Kind{Title: "x", Hint: "y"}`, "area-reason"},
		"a code of one word":   {`problem.Kind{Code: "broken", Title: "x", Hint: "y"}`, "area-reason"},
		"a code in upper case": {`problem.Kind{Code: "A-b", Title: "x", Hint: "y"}`, "area-reason"},
		"a computed hint":      {`problem.Kind{Code: "a-b", Title: "x", Hint: hint()}`, "not written out"},
		"a subtracted hint":    {`problem.Kind{Code: "a-b", Title: "x", Hint: "a" - "b"}`, "not written out"},
		"a computed retry":     {`problem.Kind{Code: "a-b", Title: "x", Hint: "y", Retry: !false}`, "not written out"},
		"fields without names": {`problem.Kind{"a-b", "x", "y", true}`, "have names"},
		"a code twice":         {`[]any{problem.Kind{Code: "a-b", Title: "x", Hint: "y"}, problem.Kind{Code: "a-b", Title: "x", Hint: "y"}}`, "a-b is taken by p/p.go:3"},
		"a file that is no Go": {`{{`, "expected"},
	} {
		_, err := collect(module(map[string]string{"p/p.go": head + "var X = " + test.text}))
		if err == nil || !strings.Contains(err.Error(), test.want) {
			t.Errorf("%s: %v, want %q", name, err, test.want)
		}
	}
}

func TestWritingMakesTheCatalogCurrent(t *testing.T) {
	root := t.TempDir()
	if err := os.Mkdir(filepath.Join(root, "docs"), 0o755); err != nil {
		t.Fatal(err)
	}
	source := head + `var X = problem.Kind{Code: "a-b", Title: "x", Hint: "y"}`
	if err := os.WriteFile(filepath.Join(root, "p.go"), []byte(source), 0o644); err != nil {
		t.Fatal(err)
	}
	if err := write(root); err != nil {
		t.Fatal(err)
	}
	got, err := os.ReadFile(filepath.Join(root, document))
	if err != nil || !strings.Contains(string(got), "`a-b`") {
		t.Errorf("wrote %q, %v", got, err)
	}
}

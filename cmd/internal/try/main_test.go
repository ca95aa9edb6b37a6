package try

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"skylift/internal/simulator/s3"
)

// TestMain also runs the S3 server, as which this binary is executed again.
func TestMain(m *testing.M) { s3.Main(built{m}) }

// program is the operator's tool, built from these sources: the daemons.
var program string

// built builds the tool before the tests and removes it behind them.
type built struct{ *testing.M }

func (b built) Run() int {
	dir, err := os.MkdirTemp("", "skylift-built-")
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	defer os.RemoveAll(dir)
	program = filepath.Join(dir, "skylift")
	if out, err := exec.Command("go", "build", "-o", program, "skylift/cmd/skylift").CombinedOutput(); err != nil {
		fmt.Fprintf(os.Stderr, "build the tool: %v\n%s", err, out)
		return 1
	}
	return b.M.Run()
}

package daemon

import (
	"errors"

	"skylift/config"
	"skylift/internal/problem"
)

func exitCode(err error) int {
	if coder := Coder(nil); errors.As(err, &coder) {
		return coder.ExitCode()
	}
	if problem.Has(err, config.Invalid) {
		return ExitUsage
	}
	return ExitFailed
}

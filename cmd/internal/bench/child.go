package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"time"
)

// child is this binary, executed again. It is asked on its standard input and
// answers on its standard output, a line of JSON each, and ends with its input.
type child struct {
	role string
	cmd  *exec.Cmd
	in   io.WriteCloser
	ask  *json.Encoder
	hear *json.Decoder
}

// answer is a child's line: what it was asked for, or why it has nothing.
type answer struct {
	Error string          `json:",omitempty"`
	Value json.RawMessage `json:",omitempty"`
}

func start(ctx context.Context, role string) (*child, error) {
	exe, err := os.Executable()
	if err != nil {
		return nil, err
	}
	c := &child{role: role, cmd: exec.CommandContext(ctx, exe, role)}
	c.cmd.Stderr = os.Stderr
	if c.in, err = c.cmd.StdinPipe(); err != nil {
		return nil, err
	}
	out, err := c.cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	c.ask, c.hear = json.NewEncoder(c.in), json.NewDecoder(out)
	if err := c.cmd.Start(); err != nil {
		return nil, fmt.Errorf("start the %s: %w", role, err)
	}
	return c, nil
}

// call asks for something and waits for the answer.
func (c *child) call(question, value any) error {
	var a answer
	err := c.ask.Encode(question)
	if err == nil {
		err = c.hear.Decode(&a)
	}
	switch {
	case err != nil:
		return fmt.Errorf("%s: no answer: %w", c.role, err)
	case a.Error != "":
		return fmt.Errorf("%s: %s", c.role, a.Error)
	}
	return json.Unmarshal(a.Value, value)
}

// end lets the child end and waits for it.
func (c *child) end() error {
	err := errors.Join(c.in.Close(), c.cmd.Wait())
	if err != nil {
		return fmt.Errorf("end the %s: %w", c.role, err)
	}
	return nil
}

// once starts a child for one question and tells what all of its life took.
func once(ctx context.Context, role string, question, value any) (spent, error) {
	began := time.Now()
	c, err := start(ctx, role)
	if err != nil {
		return spent{}, err
	}
	err = errors.Join(c.call(question, value), c.end())
	return spent{Wall: time.Since(began), CPU: processorOf(c.cmd)}, err
}

// answerAll is a child's side: it answers until its input ends.
func answerAll[Q, A any](ctx context.Context, reply func(context.Context, Q) (A, error)) error {
	in, out := json.NewDecoder(os.Stdin), json.NewEncoder(os.Stdout)
	for {
		var question Q
		if err := in.Decode(&question); err == io.EOF {
			return nil
		} else if err != nil {
			return err
		}
		var a answer
		value, err := reply(ctx, question)
		if err == nil {
			a.Value, err = json.Marshal(value)
		}
		if err != nil {
			a = answer{Error: err.Error()}
		}
		if err := out.Encode(a); err != nil {
			return err
		}
	}
}

func answerOnce[Q, A any](reply func(context.Context, Q) (A, error)) func(context.Context) error {
	return func(ctx context.Context) error { return answerAll(ctx, reply) }
}

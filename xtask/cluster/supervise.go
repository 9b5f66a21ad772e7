package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"syscall"
	"time"
)

// A part that the supervisor keeps running.
type part struct {
	Name    string   `json:"name"`
	Command []string `json:"command"`
}

// supervise is the first process of the node's PID namespace, so nothing of the node outlives it. It starts the parts
// that a file lists, writes what they print to DIR/NAME.log, starts again what has ended, and buries whatever was left to
// it (containerd's shims, pods' processes).
func supervise(args []string) error {
	if len(args) != 2 {
		return errors.New("usage: node supervise PARTS.json DIR")
	}
	text, err := os.ReadFile(args[0])
	if err != nil {
		return err
	}
	var parts []part
	if err := json.Unmarshal(text, &parts); err != nil {
		return fmt.Errorf("%s: %w", args[0], err)
	}
	ends := make(chan os.Signal, 1)
	signal.Notify(ends, syscall.SIGTERM, syscall.SIGINT)
	children := make(chan os.Signal, 1)
	signal.Notify(children, syscall.SIGCHLD)

	running := map[int]part{}
	start := func(part part) error {
		pid, err := part.start(args[1])
		if err == nil {
			running[pid] = part
		}
		return err
	}
	for _, part := range parts {
		if err := start(part); err != nil {
			return err
		}
	}
	again := make(chan part)
	for {
		select {
		case <-ends:
			return nil
		case part := <-again:
			if err := start(part); err != nil {
				return err
			}
		case <-children:
			for {
				pid, err := syscall.Wait4(-1, nil, syscall.WNOHANG, nil)
				if err != nil || pid <= 0 {
					break
				}
				if part, ours := running[pid]; ours {
					delete(running, pid)
					time.AfterFunc(time.Second, func() { again <- part })
				}
			}
		}
	}
}

// start runs the part, and gives its process ID. What it is waited for by is supervise's own loop.
func (part part) start(dir string) (int, error) {
	log, err := os.OpenFile(filepath.Join(dir, part.Name+".log"), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
	if err != nil {
		return 0, err
	}
	defer log.Close()
	command := exec.Command(part.Command[0], part.Command[1:]...)
	command.Stdout, command.Stderr = log, log
	if err := command.Start(); err != nil {
		return 0, fmt.Errorf("starting %s: %w", part.Name, err)
	}
	return command.Process.Pid, nil
}

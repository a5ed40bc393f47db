// Tool is a service of one run a call, whose effects a test can see and hold up.
package main

import (
	"fmt"
	"io"
	"os"
)

func main() {
	op, in := "", ""
	if len(os.Args) > 1 {
		op = os.Args[len(os.Args)-1]
	}
	if b, err := io.ReadAll(os.Stdin); err == nil {
		in = string(b)
	}
	out, err := run(op, in)
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	fmt.Print(out)
}

func run(op, in string) (string, error) {
	switch op {
	case "echo":
		return in, nil
	case "mark": // leaves one byte in the file that the payload names
		f, err := os.OpenFile(in, os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0o600)
		if err != nil {
			return "", err
		}
		if _, err := f.WriteString("x"); err != nil {
			return "", err
		}
		return "marked", f.Close()
	case "hold": // goes on for as long as somebody holds the named pipe open
		_, err := os.ReadFile(in)
		return "held", err
	}
	return "ran " + op, nil
}

// Command upper is a WASI command: it answers with its payload in upper case.
package main

import (
	"fmt"
	"io"
	"os"
	"strings"
)

var hoard [][]byte

func main() {
	in, err := io.ReadAll(os.Stdin)
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	switch op := os.Args[len(os.Args)-1]; op {
	case "upper":
		fmt.Print(strings.ToUpper(string(in)))
	case "args":
		fmt.Print(strings.Join(os.Args[1:], " "), " ", os.Getenv("NAME"))
	case "big":
		fmt.Print(strings.Repeat("x", 2<<20))
	case "spin":
		for {
			hoard = nil
		}
	case "hog":
		for {
			hoard = append(hoard, make([]byte, 1<<20))
		}
	case "quiet":
		os.Exit(4)
	default:
		fmt.Fprintln(os.Stderr, "no operation", op)
		os.Exit(3)
	}
}

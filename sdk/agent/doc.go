// Package agent is the Go client of Solo over gRPC. A Client carries one handle and presents
// it with every call; it refuses to send a handle over a plaintext connection that leaves the
// machine unless it is told to by name.
//
// Every error of a method is a *fault.Error. Mutations without a request id are given a fresh
// one, which makes repeating them safe: calls that Solo answers with UNAVAILABLE are repeated
// a few times with growing waits, except Call, whose effect may have happened. Methods are
// safe for concurrent use.
package agent

// Package rosetta stands in for a module of the same name: translation of programs is a matter of macOS.
package rosetta

// Enabled tells whether programs are translated; on Linux they are not.
func Enabled() bool { return false }

// Command pause holds a pod's namespaces open: it waits to be ended. It is the whole of the sandbox image, which can't be
// pulled here.
package main

import (
	"os"
	"os/signal"
	"syscall"
)

func main() {
	ends := make(chan os.Signal, 1)
	signal.Notify(ends, syscall.SIGINT, syscall.SIGTERM)
	<-ends
}

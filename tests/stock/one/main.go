// One puts values one after the other with etcd's Go client, and prints each latency as JSON: what urd-bench measures
// with its own client, as most callers have it. It is run by urd-bench.
package main

import (
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"os"
	"strings"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
)

const keyBytes = 32

func main() {
	endpoint := flag.String("endpoint", "127.0.0.1:2379", "host:port")
	seconds := flag.Float64("seconds", 5, "how long")
	keys := flag.Int("keys", 10_000, "keys that the puts are spread over")
	valueBytes := flag.Int("value-bytes", 256, "bytes of a value")
	prefix := flag.String("prefix", "/bench/", "what each key begins with")
	flag.Parse()
	latencies, err := run(*endpoint, time.Duration(*seconds*float64(time.Second)), *keys, *valueBytes, *prefix)
	if err == nil {
		err = json.NewEncoder(os.Stdout).Encode(map[string][]int64{"latencies_ns": latencies})
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func run(endpoint string, duration time.Duration, keys, valueBytes int, prefix string) ([]int64, error) {
	client, err := clientv3.New(clientv3.Config{Endpoints: []string{endpoint}, DialTimeout: 5 * time.Second})
	if err != nil {
		return nil, err
	}
	defer client.Close()
	ctx, cancel := context.WithTimeout(context.Background(), duration+time.Minute)
	defer cancel()
	value := strings.Repeat("v", valueBytes)
	// The first carries the connection with it, and is none of the keys.
	if _, err := client.Put(ctx, "ready", value); err != nil {
		return nil, err
	}
	var latencies []int64
	begin := time.Now()
	for number := 0; time.Since(begin) < duration; number++ {
		// A step that shares no factor with a round count of keys visits all of them.
		key := fmt.Sprintf("%s%0*d", prefix, keyBytes-len(prefix), number*7919%keys)
		sent := time.Now()
		if _, err := client.Put(ctx, key, value); err != nil {
			return nil, err
		}
		latencies = append(latencies, time.Since(sent).Nanoseconds())
	}
	return latencies, nil
}

// Many fills a server with what a large cluster holds: keys by transactions of a hundred, each tenth of them on a lease, some
// of them written again so that they have a history, users with roles that may see a part of the keys, and root. It ends with
// auth enabled.
//
//	URD_ENDPOINT=host:port many KEYS LEASES USERS
package main

import (
	"context"
	"fmt"
	"log"
	"os"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"

	clientv3 "go.etcd.io/etcd/client/v3"
)

const (
	callers = 16
	batch   = 100
	// Each so many users share a role.
	sharing = 10
)

func number(at int) int {
	number, err := strconv.Atoi(os.Args[at])
	must(err)
	return number
}

func must(err error) {
	if err != nil {
		log.Fatal(err)
	}
}

// each calls do with every number below count, by several callers at a time.
func each(count int, do func(at int)) {
	var next atomic.Int64
	var group sync.WaitGroup
	for range callers {
		group.Go(func() {
			for at := int(next.Add(1)) - 1; at < count; at = int(next.Add(1)) - 1 {
				do(at)
			}
		})
	}
	group.Wait()
}

func main() {
	if len(os.Args) != 4 {
		log.Fatal("usage: many KEYS LEASES USERS")
	}
	keys, leases, users := number(1), number(2), number(3)
	ctx := context.Background()
	client, err := clientv3.New(clientv3.Config{Endpoints: []string{os.Getenv("URD_ENDPOINT")}})
	must(err)
	defer client.Close()

	granted := make([]clientv3.LeaseID, leases)
	each(leases, func(at int) {
		answer, err := client.Grant(ctx, 86400)
		must(err)
		granted[at] = answer.ID
	})
	value := strings.Repeat("v", 240)
	put := func(key int, round string) clientv3.Op {
		// Leases and users are of the keys' text, which is of one length: 32 bytes, with a value of 256.
		name := fmt.Sprintf("/registry/pods/ns-%04d/%09d", key%1000, key)
		text := fmt.Sprintf("%s%s%015d", round, value, key)
		if key%10 == 0 {
			return clientv3.OpPut(name, text, clientv3.WithLease(granted[key/10%leases]))
		}
		return clientv3.OpPut(name, text)
	}
	write := func(first, count, every int, round string) {
		each(count/batch/every, func(at int) {
			ops := make([]clientv3.Op, 0, batch)
			for i := range batch {
				ops = append(ops, put(first+(at*batch+i)*every, round))
			}
			_, err := client.Txn(ctx).Then(ops...).Commit()
			must(err)
		})
	}
	write(0, keys, 1, "1")
	write(0, keys, 10, "2")
	_, err = client.Delete(ctx, "/registry/pods/ns-0999/", clientv3.WithPrefix())
	must(err)

	_, err = client.UserAdd(ctx, "root", "root")
	must(err)
	_, err = client.RoleAdd(ctx, "root")
	must(err)
	_, err = client.UserGrantRole(ctx, "root", "root")
	must(err)
	each((users+sharing-1)/sharing, func(at int) {
		role, prefix := fmt.Sprintf("role-%d", at), fmt.Sprintf("/registry/pods/ns-%04d/", at)
		_, err := client.RoleAdd(ctx, role)
		must(err)
		_, err = client.RoleGrantPermission(ctx, role, prefix, clientv3.GetPrefixRangeEnd(prefix),
			clientv3.PermissionType(clientv3.PermReadWrite))
		must(err)
	})
	each(users, func(at int) {
		user := fmt.Sprintf("user-%d", at)
		_, err := client.UserAdd(ctx, user, "of "+user)
		must(err)
		_, err = client.UserGrantRole(ctx, user, fmt.Sprintf("role-%d", at/sharing))
		must(err)
	})
	_, err = client.AuthEnable(ctx)
	must(err)
}

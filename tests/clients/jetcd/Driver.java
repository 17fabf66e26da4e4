// Our own script over the public interface of jetcd, whose own suite starts containers. A step is a test; what it hears from
// the server it says, and both servers must be heard to say the same. What the server draws or what the clock decides is
// hidden, or not said.
//
//   java Driver URL FILE      FILE: a line for each step, its name, "passed" or "failed", and what it has said

import static java.nio.charset.StandardCharsets.UTF_8;

import io.etcd.jetcd.Auth;
import io.etcd.jetcd.ByteSequence;
import io.etcd.jetcd.Client;
import io.etcd.jetcd.ClientBuilder;
import io.etcd.jetcd.Election;
import io.etcd.jetcd.KV;
import io.etcd.jetcd.Lease;
import io.etcd.jetcd.Maintenance;
import io.etcd.jetcd.Watch;
import io.etcd.jetcd.auth.Permission;
import io.etcd.jetcd.election.LeaderResponse;
import io.etcd.jetcd.lease.LeaseKeepAliveResponse;
import io.etcd.jetcd.op.Cmp;
import io.etcd.jetcd.op.CmpTarget;
import io.etcd.jetcd.op.Op;
import io.etcd.jetcd.options.CompactOption;
import io.etcd.jetcd.options.DeleteOption;
import io.etcd.jetcd.options.GetOption;
import io.etcd.jetcd.options.LeaseOption;
import io.etcd.jetcd.options.PutOption;
import io.etcd.jetcd.options.WatchOption;
import io.etcd.jetcd.watch.WatchEvent;
import io.etcd.jetcd.watch.WatchResponse;
import io.grpc.stub.StreamObserver;
import java.io.ByteArrayOutputStream;
import java.net.URI;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.ArrayList;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;
import java.util.concurrent.Callable;
import java.util.concurrent.CompletableFuture;
import java.util.concurrent.CopyOnWriteArrayList;
import java.util.concurrent.ExecutionException;
import java.util.concurrent.TimeUnit;

public final class Driver {
    interface Step {
        void run() throws Exception;
    }

    static String url;
    static Client client;
    static KV kv;
    static final Map<String, String> hidden = new LinkedHashMap<>();
    static List<String> said;

    static ByteSequence bytes(String text) {
        return ByteSequence.from(text, UTF_8);
    }

    static ClientBuilder connect() {
        return Client.builder().endpoints(url).connectTimeout(java.time.Duration.ofSeconds(5)).retryMaxAttempts(1);
    }

    static <T> T soon(CompletableFuture<T> future) throws Exception {
        return future.get(15, TimeUnit.SECONDS);
    }

    /** The answer's own text, with a name for each thing that is hidden. */
    static void say(Object... values) {
        for (Object value : values) {
            String text = String.valueOf(value);
            for (Map.Entry<String, String> one : hidden.entrySet()) {
                text = text.replace(one.getKey(), one.getValue());
            }
            said.add(text);
        }
    }

    static <T> T heard(CompletableFuture<T> future) throws Exception {
        T answer = soon(future);
        say(answer);
        return answer;
    }

    /** What a call is refused with: the class of the client's error and the server's text. */
    static void refused(CompletableFuture<?> future) throws Exception {
        try {
            throw new AssertionError("not refused: " + soon(future));
        } catch (ExecutionException error) {
            say(described(error.getCause()));
        }
    }

    static String described(Throwable error) {
        String code = error instanceof io.etcd.jetcd.common.exception.EtcdException
            ? ((io.etcd.jetcd.common.exception.EtcdException) error).getErrorCode() + " " : "";
        return error.getClass().getSimpleName() + " " + code + error.getMessage();
    }

    static long hide(long id, String name) {
        hidden.put(Long.toString(id), name);
        hidden.put(Long.toHexString(id), name);
        return id;
    }

    static void until(Callable<Boolean> condition) throws Exception {
        for (long end = System.nanoTime() + 10_000_000_000L; !condition.call(); Thread.sleep(20)) {
            if (System.nanoTime() > end) {
                throw new AssertionError("has waited in vain");
            }
        }
    }

    // --- Keys and values ---

    static void putGetDelete() throws Exception {
        heard(kv.put(bytes("foo"), bytes("bar")));
        heard(kv.get(bytes("foo")));
        heard(kv.get(bytes("none")));
        heard(kv.put(bytes("foo"), bytes("baz"), PutOption.builder().withPrevKV().build()));
        heard(kv.put(bytes("binary"), ByteSequence.from(new byte[] {0, -1, 10})));
        heard(kv.get(bytes("binary")));
        heard(kv.delete(bytes("foo"), DeleteOption.builder().withPrevKV(true).build()));
        heard(kv.delete(bytes("foo")));
        heard(kv.delete(bytes("b"), DeleteOption.builder().isPrefix(true).build()));
        refused(kv.put(ByteSequence.EMPTY, bytes("x")));
        refused(kv.put(bytes("leased"), bytes("x"), PutOption.builder().withLeaseId(4711).build()));
        refused(kv.get(bytes("foo"), GetOption.builder().withRevision(1_000_000).build()));
        refused(kv.put(bytes("big"), ByteSequence.from(new byte[2 << 20])));
    }

    static void ranges() throws Exception {
        for (String key : new String[] {"a1", "a2", "b1", "b2", "c1"}) {
            soon(kv.put(bytes(key), bytes(key.substring(1))));
        }
        long revision = heard(kv.get(bytes("a"), GetOption.builder().isPrefix(true).build())).getHeader().getRevision();
        heard(kv.get(bytes("a2"), GetOption.builder().withRange(bytes("b2")).build()));
        heard(kv.get(bytes("\0"), GetOption.builder().withRange(bytes("\0")).withKeysOnly(true).build()));
        heard(kv.get(bytes("\0"), GetOption.builder().withRange(bytes("\0")).withCountOnly(true).build()));
        for (GetOption.SortTarget target : GetOption.SortTarget.values()) {
            for (GetOption.SortOrder order : GetOption.SortOrder.values()) {
                heard(kv.get(bytes("a"), GetOption.builder().withRange(bytes("z")).withSortField(target).withSortOrder(order)
                    .withLimit(3).build()));
            }
        }
        soon(kv.put(bytes("a1"), bytes("new")));
        heard(kv.get(bytes("a1"), GetOption.builder().withRevision(revision).build()));
        heard(kv.get(bytes("a1"), GetOption.builder().withSerializable(true).build()));
        heard(kv.get(bytes("a"), GetOption.builder().withRange(bytes("z")).withMinModRevision(revision).build()));
        heard(kv.get(bytes("a"), GetOption.builder().withRange(bytes("z")).withMaxModRevision(revision - 1).build()));
        heard(kv.get(bytes("a"), GetOption.builder().withRange(bytes("z")).withMinCreateRevision(revision).build()));
        heard(kv.get(bytes("a"), GetOption.builder().withRange(bytes("z")).withMaxCreateRevision(revision - 1).build()));
        heard(kv.delete(bytes("a2"), DeleteOption.builder().withRange(bytes("c")).withPrevKV(true).build()));
        heard(kv.delete(bytes("\0"), DeleteOption.builder().withRange(bytes("\0")).build()));
    }

    static void compaction() throws Exception {
        soon(kv.put(bytes("c"), bytes("1")));
        long revision = soon(kv.put(bytes("c"), bytes("2"))).getHeader().getRevision();
        heard(kv.compact(revision, CompactOption.builder().withCompactPhysical(true).build()));
        refused(kv.compact(revision));
        refused(kv.compact(revision + 1000));
        refused(kv.get(bytes("c"), GetOption.builder().withRevision(revision - 1).build()));
        heard(kv.get(bytes("c"), GetOption.builder().withRevision(revision).build()));
    }

    static void transactions() throws Exception {
        ByteSequence key = bytes("t");
        soon(kv.put(key, bytes("1")));
        Op then = Op.get(key, GetOption.DEFAULT);
        Op otherwise = Op.get(bytes("none"), GetOption.DEFAULT);
        for (Cmp.Op op : Cmp.Op.values()) {
            for (CmpTarget<?> target : List.of(CmpTarget.value(bytes("1")), CmpTarget.version(1),
                CmpTarget.createRevision(0), CmpTarget.modRevision(1000))) {
                heard(kv.txn().If(new Cmp(key, op, target)).Then(then).Else(otherwise).commit());
            }
        }
        heard(kv.txn()
            .If(new Cmp(key, Cmp.Op.EQUAL, CmpTarget.value(bytes("1"))), new Cmp(bytes("none"), Cmp.Op.EQUAL, CmpTarget.version(0)))
            .Then(Op.put(key, bytes("2"), PutOption.builder().withPrevKV().build()),
                Op.put(bytes("t2"), bytes("3"), PutOption.DEFAULT),
                Op.delete(bytes("t3"), DeleteOption.DEFAULT), Op.get(key, GetOption.builder().isPrefix(true).build()))
            .commit());
        heard(kv.txn().Then(Op.txn(new Cmp[] {new Cmp(key, Cmp.Op.GREATER, CmpTarget.version(1))},
            new Op[] {Op.delete(key, DeleteOption.DEFAULT)}, new Op[] {then})).commit());
        refused(kv.txn().Then(Op.put(key, bytes("1"), PutOption.DEFAULT), Op.put(key, bytes("2"), PutOption.DEFAULT)).commit());
        Op[] many = new Op[129];
        java.util.Arrays.fill(many, then);
        refused(kv.txn().Then(many).commit());
        heard(kv.get(key, GetOption.builder().isPrefix(true).build()));
        soon(kv.delete(key, DeleteOption.builder().isPrefix(true).build()));
    }

    // --- Leases ---

    static void leases() throws Exception {
        Lease leases = client.getLeaseClient();
        long id = hide(soon(leases.grant(60)).getID(), "LEASE");
        heard(kv.put(bytes("leased"), bytes("x"), PutOption.builder().withLeaseId(id).build()));
        heard(kv.get(bytes("leased")));
        heard(leases.timeToLive(id, LeaseOption.builder().withAttachedKeys().build()));
        heard(leases.timeToLive(id, LeaseOption.DEFAULT));
        heard(leases.keepAliveOnce(id));
        heard(leases.revoke(id));
        heard(kv.get(bytes("leased")));
        heard(leases.timeToLive(id, LeaseOption.DEFAULT));
        refused(leases.revoke(id));
        refused(leases.keepAliveOnce(id));
        refused(leases.grant(10_000_000_000L));
    }

    static void leaseKeptAlive() throws Exception {
        Lease leases = client.getLeaseClient();
        long id = hide(soon(leases.grant(1)).getID(), "KEPT");
        soon(kv.put(bytes("kept"), bytes("x"), PutOption.builder().withLeaseId(id).build()));
        List<LeaseKeepAliveResponse> answers = new CopyOnWriteArrayList<>();
        AutoCloseable keeping = leases.keepAlive(id, new StreamObserver<>() {
            public void onNext(LeaseKeepAliveResponse answer) {
                answers.add(answer);
            }

            public void onError(Throwable error) {}

            public void onCompleted() {}
        });
        until(() -> answers.size() >= 4);
        say(answers.get(0).getTTL(), answers.get(3).getTTL());
        heard(kv.get(bytes("kept")));
        keeping.close();
        until(() -> soon(kv.get(bytes("kept"))).getCount() == 0);
    }

    // --- Watches ---

    static void tell(WatchEvent event) {
        say(event.getEventType());
        for (io.etcd.jetcd.KeyValue one : new io.etcd.jetcd.KeyValue[] {event.getKeyValue(), event.getPrevKV()}) {
            say(one.getKey(), one.getValue(), one.getCreateRevision(), one.getModRevision(), one.getVersion());
        }
    }

    static void watches() throws Exception {
        long revision = soon(kv.put(bytes("w"), bytes("0"))).getHeader().getRevision();
        Watch watch = client.getWatchClient();
        List<List<WatchEvent>> seen = new ArrayList<>();
        List<AutoCloseable> watchers = new ArrayList<>();
        for (WatchOption option : List.of(
            WatchOption.builder().withRevision(revision).withPrevKV(true).build(),
            WatchOption.builder().withRevision(revision).isPrefix(true).build(),
            WatchOption.builder().withRevision(revision).withRange(bytes("x")).withNoPut(true).build(),
            WatchOption.builder().withRevision(revision).isPrefix(true).withNoDelete(true).withRequireLeader(true).build())) {
            List<WatchEvent> events = new CopyOnWriteArrayList<>();
            seen.add(events);
            watchers.add(watch.watch(bytes("w"), option, (WatchResponse response) -> events.addAll(response.getEvents())));
        }
        soon(kv.put(bytes("w"), bytes("1")));
        soon(kv.txn().Then(Op.put(bytes("w2"), bytes("2"), PutOption.DEFAULT), Op.delete(bytes("w"), DeleteOption.DEFAULT)).commit());
        soon(kv.delete(bytes("w2")));
        int[] wanted = {3, 5, 2, 3};
        for (int i = 0; i < wanted.length; i++) {
            List<WatchEvent> events = seen.get(i);
            int count = wanted[i];
            until(() -> events.size() == count);
            events.forEach(Driver::tell);
        }
        for (AutoCloseable watcher : watchers) {
            watcher.close();
        }
    }

    static void watchNotifications() throws Exception {
        List<WatchResponse> responses = new CopyOnWriteArrayList<>();
        Watch watch = client.getWatchClient();
        WatchOption option = WatchOption.builder().withCreateNotify(true).withProgressNotify(true).build();
        try (Watch.Watcher watcher = watch.watch(bytes("p"), option, (WatchResponse response) -> responses.add(response))) {
            until(() -> responses.size() == 1);
            watch.requestProgress();
            until(() -> responses.size() >= 2);
            say(responses.get(0).isCreatedNotify(), responses.get(1).isProgressNotify(), responses.get(1).getHeader().getRevision());
        }
    }

    static void watchOfCompacted() throws Exception {
        long revision = soon(kv.put(bytes("w"), bytes("5"))).getHeader().getRevision();
        soon(kv.compact(revision));
        CompletableFuture<Throwable> failed = new CompletableFuture<>();
        try (Watch.Watcher watcher = client.getWatchClient().watch(bytes("w"), WatchOption.builder().withRevision(1).build(),
            Watch.listener(response -> {}, failed::complete))) {
            Throwable error = soon(failed);
            say(described(error));
            say(((io.etcd.jetcd.common.exception.CompactedException) error).getCompactedRevision() == revision);
        }
    }

    // --- Locks, elections, namespaces ---

    static void locks() throws Exception {
        long one = hide(soon(client.getLeaseClient().grant(60)).getID(), "FIRST");
        long two = hide(soon(client.getLeaseClient().grant(60)).getID(), "SECOND");
        ByteSequence held = heard(client.getLockClient().lock(bytes("lock"), one)).getKey();
        heard(client.getLockClient().lock(bytes("lock"), one));
        var waiting = client.getLockClient().lock(bytes("lock"), two);
        until(() -> soon(kv.get(bytes("lock/"), GetOption.builder().isPrefix(true).build())).getCount() == 2);
        say(waiting.isDone());
        heard(client.getLockClient().unlock(held));
        ByteSequence next = heard(waiting).getKey();
        soon(client.getLeaseClient().revoke(two));
        heard(client.getLockClient().unlock(next));
        soon(client.getLeaseClient().revoke(one));
        refused(client.getLockClient().lock(bytes("lock"), 4711));
    }

    static void elections() throws Exception {
        Election election = client.getElectionClient();
        long one = hide(soon(client.getLeaseClient().grant(60)).getID(), "ONE");
        long two = hide(soon(client.getLeaseClient().grant(60)).getID(), "TWO");
        refused(election.leader(bytes("post")));
        List<String> seen = new CopyOnWriteArrayList<>();
        election.observe(bytes("post"), new Election.Listener() {
            public void onNext(LeaderResponse response) {
                seen.add(response.getKv().getValue().toString());
            }

            public void onError(Throwable error) {}

            public void onCompleted() {}
        });
        var leader = heard(election.campaign(bytes("post"), one, bytes("one"))).getLeader();
        heard(election.leader(bytes("post")));
        until(() -> seen.size() == 1);
        var waiting = election.campaign(bytes("post"), two, bytes("two"));
        heard(election.proclaim(leader, bytes("one again")));
        until(() -> seen.size() == 2);
        heard(election.resign(leader));
        var next = heard(waiting).getLeader();
        until(() -> seen.size() == 3);
        say(seen);
        refused(election.proclaim(leader, bytes("late")));
        heard(election.resign(next));
        refused(election.leader(bytes("post")));
        soon(client.getLeaseClient().revoke(one));
        soon(client.getLeaseClient().revoke(two));
    }

    static void namespaces() throws Exception {
        try (Client space = connect().namespace(bytes("space/")).build()) {
            KV within = space.getKVClient();
            soon(within.put(bytes("k"), bytes("v")));
            soon(kv.get(bytes("space/k"))).getKvs().forEach(one -> say(one.getKey(), one.getValue()));
            soon(within.get(bytes("k"), GetOption.builder().isPrefix(true).build())).getKvs()
                .forEach(one -> say(one.getKey(), one.getValue()));
            say(soon(within.txn().If(new Cmp(bytes("k"), Cmp.Op.EQUAL, CmpTarget.version(1)))
                .Then(Op.delete(ByteSequence.EMPTY, DeleteOption.builder().isPrefix(true).build())).commit())
                .getDeleteResponses().get(0).getDeleted());
            say(soon(kv.get(bytes("space/"), GetOption.builder().isPrefix(true).build())).getCount());
        }
    }

    // --- The server ---

    static void maintenance() throws Exception {
        Maintenance maintenance = client.getMaintenanceClient();
        var status = soon(maintenance.statusMember(url));
        say(status.getVersion(), status.getLeader(), status.getRaftTerm(), status.getRaftIndex() == status.getRaftAppliedIndex(),
            status.getDbSize() >= status.getDbSizeInUse(), status.getErrorList(), status.isLearner());
        heard(maintenance.listAlarms());
        heard(maintenance.defragmentMember(url));
        heard(maintenance.hashKV(url, 0));
        refused(maintenance.hashKV(url, 1_000_000));
        refused(maintenance.moveLeader(1));
        say(soon(maintenance.snapshot(new ByteArrayOutputStream())) > 0);
    }

    static void members() throws Exception {
        var cluster = client.getClusterClient();
        heard(cluster.listMember());
        List<URI> peer = List.of(URI.create("http://127.0.0.1:1"));
        var added = soon(cluster.addMember(peer, true));
        long id = hide(added.getMember().getId(), "LEARNER");
        hidden.put(Long.toUnsignedString(id), "LEARNER");
        say(added.getMember().isLearner(), added.getMember().getPeerURIs(), added.getMembers().size());
        refused(cluster.addMember(peer, true));
        refused(cluster.promoteMember(id));
        // Members come in the order of their ids, of which the learner's is drawn.
        say(soon(cluster.updateMember(id, List.of(URI.create("http://127.0.0.1:2")))).getMembers().stream()
            .map(one -> one.getPeerURIs() + " " + one.getName()).sorted().toList());
        heard(cluster.removeMember(id));
        refused(cluster.removeMember(id));
        refused(cluster.updateMember(1, peer));
        heard(cluster.listMember());
    }

    // --- Users: the last step, for it turns authentication on ---

    static void authentication() throws Exception {
        Auth auth = client.getAuthClient();
        ByteSequence root = bytes("root"), reader = bytes("reader"), somebody = bytes("somebody");
        heard(auth.roleAdd(reader));
        refused(auth.roleAdd(reader));
        heard(auth.roleGrantPermission(reader, bytes("open/"), bytes("open0"), Permission.Type.READ));
        heard(auth.roleGrantPermission(reader, bytes("mine"), ByteSequence.EMPTY, Permission.Type.READWRITE));
        heard(auth.roleGrantPermission(reader, bytes("gone"), ByteSequence.EMPTY, Permission.Type.WRITE));
        heard(auth.roleRevokePermission(reader, bytes("gone"), ByteSequence.EMPTY));
        refused(auth.roleRevokePermission(reader, bytes("gone"), ByteSequence.EMPTY));
        heard(auth.roleGet(reader));
        refused(auth.roleGet(bytes("none")));
        heard(auth.roleList());
        heard(auth.userAdd(somebody, bytes("pw")));
        refused(auth.userAdd(somebody, bytes("pw")));
        heard(auth.userChangePassword(somebody, bytes("other")));
        refused(auth.userGrantRole(somebody, bytes("none")));
        refused(auth.userRevokeRole(somebody, reader));
        heard(auth.userGrantRole(somebody, reader));
        heard(auth.userGet(somebody));
        refused(auth.userGet(bytes("none")));
        refused(auth.authEnable());
        heard(auth.userAdd(root, root));
        heard(auth.roleAdd(root));
        heard(auth.userGrantRole(root, root));
        heard(auth.userList());
        soon(kv.put(bytes("open/a"), bytes("1")));
        heard(auth.authEnable());
        refused(kv.get(bytes("open/a")));
        try (Client as = connect().user(somebody).password(bytes("other")).build();
            Client wrong = connect().user(somebody).password(bytes("pw")).build();
            Client asRoot = connect().user(root).password(root).build()) {
            refused(wrong.getKVClient().get(bytes("open/a")));
            heard(as.getKVClient().get(bytes("open/a")));
            heard(as.getKVClient().put(bytes("mine"), bytes("2")));
            refused(as.getKVClient().put(bytes("open/a"), bytes("3")));
            refused(as.getKVClient().get(bytes("closed")));
            refused(as.getKVClient().txn().If(new Cmp(bytes("closed"), Cmp.Op.EQUAL, CmpTarget.version(0)))
                .Then(Op.get(bytes("mine"), GetOption.DEFAULT)).commit());
            refused(as.getAuthClient().userList());
            refused(as.getMaintenanceClient().defragmentMember(url));
            heard(asRoot.getAuthClient().userRevokeRole(somebody, reader));
            refused(as.getKVClient().get(bytes("open/a")));
            heard(asRoot.getAuthClient().authDisable());
        }
        heard(auth.userDelete(somebody));
        heard(auth.roleDelete(reader));
        refused(auth.roleDelete(reader));
        heard(kv.get(bytes("open/a")));
    }

    static String json(List<String> texts) {
        StringBuilder out = new StringBuilder("[");
        for (String text : texts) {
            out.append(out.length() > 1 ? ", \"" : "\"");
            for (char c : text.toCharArray()) {
                if (c < ' ' || c == '"' || c == '\\' || c > '~') {
                    out.append(String.format("\\u%04x", (int) c));
                } else {
                    out.append(c);
                }
            }
            out.append('"');
        }
        return out.append(']').toString();
    }

    public static void main(String[] args) throws Exception {
        url = args[0];
        client = connect().build();
        kv = client.getKVClient();
        Map<String, Step> steps = new LinkedHashMap<>();
        steps.put("put, get, delete", Driver::putGetDelete);
        steps.put("ranges", Driver::ranges);
        steps.put("compaction", Driver::compaction);
        steps.put("transactions", Driver::transactions);
        // Before there are leases: their ids go into the hash.
        steps.put("maintenance", Driver::maintenance);
        steps.put("leases", Driver::leases);
        steps.put("lease kept alive", Driver::leaseKeptAlive);
        steps.put("watches", Driver::watches);
        steps.put("watch notifications", Driver::watchNotifications);
        steps.put("watch of what is compacted", Driver::watchOfCompacted);
        steps.put("locks", Driver::locks);
        steps.put("elections", Driver::elections);
        steps.put("namespaces", Driver::namespaces);
        steps.put("members", Driver::members);
        steps.put("authentication", Driver::authentication);
        StringBuilder lines = new StringBuilder();
        for (Map.Entry<String, Step> step : steps.entrySet()) {
            said = new ArrayList<>();
            String outcome = "passed";
            try {
                step.getValue().run();
            } catch (Throwable error) {
                System.err.println(step.getKey());
                error.printStackTrace();
                outcome = "failed";
            }
            lines.append(String.join("\t", step.getKey().replace(' ', '_'), outcome, json(said))).append('\n');
        }
        Files.writeString(Path.of(args[1]), lines);
        System.exit(0);
    }
}

// Our own script over the public interface of npm's etcd3: the release has no tests of its own. A step is a test; what it
// hears from the server it says, and both servers must be heard to say the same. What the server draws or what the clock
// decides is not said.
//
//   node driver.js HOST:PORT FILE      FILE: a line for each step, its name, "passed" or "failed", and what it has said
'use strict';
const assert = require('assert');
const fs = require('fs');
const { once } = require('events');
const { noop } = require('cockatiel');
const { Etcd3, Range, Role, User } = require('etcd3');

const [hosts, file] = process.argv.slice(2);
// Without its circuit breaker, which some refusals in a row would open.
const connect = options => new Etcd3({ hosts, faultHandling: { host: () => noop }, ...options });
const client = connect();
const steps = [];
const step = (name, work) => steps.push([name, work]);

const plain = value =>
  JSON.parse(JSON.stringify(value, (_, v) => (v && v.type === 'Buffer' ? Buffer.from(v.data).toString('latin1') : v)));
// What a call is refused with: the client's class of error, and the server's text.
const refusal = promise =>
  Promise.resolve(promise).then(
    value => assert.fail(`not refused: ${JSON.stringify(value)}`),
    error => `${error.constructor.name}: ${error.message}`,
  );
const first = (emitter, event) => once(emitter, event).then(([value]) => value);
const until = async condition => {
  for (const end = Date.now() + 10000; !(await condition()); await new Promise(resolve => setTimeout(resolve, 20))) {
    assert(Date.now() < end, 'has waited in vain');
  }
};

// --- Keys and values ---

step('put, get and delete', async say => {
  say(await client.put('foo').value('bar'));
  say(await client.get('foo').exec());
  say(await client.get('foo').string(), await client.get('foo'), await client.get('none').string());
  say(await client.get('foo').exists(), await client.get('none').exists(), await client.get('foo').buffer());
  say(await client.put('foo').value(5).getPrevious());
  say(await client.get('foo').number(), await client.get('none').number());
  say(await client.put('json').value('{"a":[1,2]}'), await client.get('json').json());
  say(await client.put(Buffer.from([0, 255])).value(Buffer.from([254, 0])));
  say(await client.get(Buffer.from([0, 255])).buffer());
  say(await client.put('foo').touch(), await client.get('foo').exec());
  say(await client.delete().key('foo').getPrevious());
  say(await client.delete().key('foo'));
  say(await client.delete().all().exec());
});

step('ranges', async say => {
  for (const key of ['a1', 'a2', 'b1', 'b2', 'c1']) await client.put(key).value(`${key.charCodeAt(0)}`);
  say(await client.getAll(), await client.getAll().prefix('a').strings(), await client.getAll().numbers());
  say(await client.getAll().keys(), await client.getAll().keyBuffers(), await client.getAll().count());
  say(await client.getAll().inRange({ start: 'a2', end: 'b2' }).keys());
  say(await client.getAll().inRange({ prefix: 'b' }).buffers(), await client.getAll().inRange('c1').json());
  say(await client.getAll().inRange(Range.prefix('c')).exec());
  for (const target of ['Key', 'Version', 'Create', 'Mod', 'Value']) {
    for (const order of ['None', 'Ascend', 'Descend']) say(await client.getAll().sort(target, order).limit(3).exec());
  }
  const { header } = await client.get('a1').exec();
  await client.put('a1').value('new');
  say(await client.getAll().revision(header.revision).exec(), await client.get('a1').revision(header.revision));
  say(await client.getAll().serializable(true).keys());
  const at = Number(header.revision);
  say(
    await client.getAll().minModRevision(at).exec(),
    await client
      .getAll()
      .maxModRevision(at - 2)
      .exec(),
  );
  say(
    await client.getAll().minCreateRevision(at).exec(),
    await client
      .getAll()
      .maxCreateRevision(at - 2)
      .exec(),
  );
  say(await client.delete().prefix('a').getPrevious(), await client.delete().inRange({ start: 'b', end: 'b2' }));
  say(await client.delete().range(new Range('b', 'c2')), await client.getAll().count());
});

step('what is not allowed of keys', async say => {
  say(await refusal(client.put('').value('x')));
  say(await refusal(client.kv.range({ key: '' })));
  say(await refusal(client.kv.deleteRange({ key: '' })));
  say(await refusal(client.get('a').revision(1000000)));
  say(await refusal(client.put('lost').value('x').lease('123456')));
  say(await refusal(client.put('none').value('x').ignoreLease()));
  say(await refusal(client.put('none').touch()));
  say(await refusal(client.kv.put({ key: Buffer.from('none'), value: Buffer.from('x'), ignore_value: true })));
  say(await refusal(client.put('big').value('x'.repeat(2 * 1024 * 1024))));
});

step('compaction', async say => {
  await client.put('c').value('1');
  const { header } = await client.put('c').value('2');
  say(await client.kv.compact({ revision: header.revision, physical: true }));
  say(await refusal(client.kv.compact({ revision: header.revision })));
  say(await refusal(client.kv.compact({ revision: '1000000' })));
  say(await refusal(client.get('c').revision(1)));
  say(await client.get('c').revision(header.revision).exec());
});

// --- Transactions ---

step('if, then, else', async say => {
  await client.put('t').value('1');
  for (const [column, compared, value] of [
    ['Value', '==', '1'],
    ['Value', '!=', '1'],
    ['Value', '<', '2'],
    ['Value', '>', '2'],
    ['Version', '===', 1],
    ['Version', '!==', 1],
    ['Version', '>', 1],
    ['Create', '==', 0],
    ['Create', '>', 0],
    ['Mod', '<', 2],
    ['Lease', '==', 0],
  ]) {
    say(
      column,
      compared,
      value,
      await client.if('t', column, compared, value).then(client.get('t')).else(client.get('none')).commit(),
    );
  }
  say(
    await client
      .if('t', 'Value', '==', '1')
      .and('none', 'Create', '==', 0)
      .then(
        client.put('t').value('2'),
        client.put('t2').value('3'),
        client.delete().key('t3'),
        client.getAll().prefix('t'),
      )
      .commit(),
  );
  say(await client.if('t', 'Value', '==', '1').then(client.put('t').value('3')).commit(), await client.get('t'));
  say(
    await refusal(
      client.if('t', 'Version', '>', 0).then(client.put('t').value('4'), client.put('t').value('5')).commit(),
    ),
  );
  say(
    await refusal(
      client.if('t', 'Version', '>', 0).then(client.put('t').value('4'), client.delete().prefix('t')).commit(),
    ),
  );
  say(
    await refusal(
      client
        .if('t', 'Version', '>', 0)
        .then(...Array(129).fill(client.get('t')))
        .commit(),
    ),
  );
  say(
    await client.kv.txn({
      compare: [],
      success: [{ request_txn: { success: [{ request_range: { key: Buffer.from('t') } }] } }],
      failure: [],
    }),
  );
  await client.delete().all();
});

step('software transactions', async say => {
  for (const isolation of [0, 1, 2, 3]) {
    // In one revision: an isolation of 0 wants what is written to be no newer than what has been read.
    await client.if('none', 'Create', '==', 0).then(client.put('from').value(10), client.put('to').value(0)).commit();
    say(
      await client.stm({ isolation, prefetch: ['from'] }).transact(async tx => {
        const [from, to] = [await tx.get('from').number(), await tx.get('to').number()];
        await tx.put('from').value(from - 3);
        await tx.put('to').value(to + 3);
        await tx.delete().key('gone');
        return [from, to];
      }),
    );
    say(await client.getAll().numbers());
  }
  const adding = () =>
    client.stm({ retries: 20 }).transact(async tx => tx.put('sum').value(((await tx.get('sum').number()) || 0) + 1));
  await Promise.all(Array.from({ length: 5 }, adding));
  say(await client.get('sum').number());
  say(
    await refusal(
      client.stm({ retries: 0 }).transact(async tx => {
        await tx.get('sum');
        await client.put('sum').value(0);
        await tx.put('sum').value(1);
      }),
    ),
  );
  await client.delete().all();
});

// --- Leases ---

step('leases', async say => {
  const lease = client.lease(60, { autoKeepAlive: false });
  const id = await lease.grant();
  await lease.put('leased').value('x');
  const { kvs } = await client.get('leased').exec();
  assert.strictEqual(kvs[0].lease, id);
  const left = await client.leaseClient.leaseTimeToLive({ ID: id, keys: true });
  say({ ...left, ID: 0 });
  say({ ...(await lease.keepaliveOnce()), ID: 0 }, lease.state, lease.revoked());
  await client.put('leased').value('y').ignoreLease();
  assert.strictEqual((await client.get('leased').exec()).kvs[0].lease, id);
  say((await client.if('leased', 'Lease', '==', id).commit()).succeeded);
  await lease.revoke();
  say(await client.get('leased'), lease.state, lease.revoked());
  say(await client.leaseClient.leaseTimeToLive({ ID: id, keys: true }).then(answer => ({ ...answer, ID: 0 })));
  say(await refusal(client.leaseClient.leaseRevoke({ ID: '4242' })));
  say(
    await client.leaseClient.leaseGrant({ ID: '4242', TTL: 60 }),
    await refusal(client.leaseClient.leaseGrant({ ID: '4242', TTL: 60 })),
  );
  say(await client.leaseClient.leaseLeases(), await client.leaseClient.leaseRevoke({ ID: '4242' }));
  say(await refusal(client.leaseClient.leaseGrant({ TTL: '10000000000' })));
});

step('a lease that is kept alive', async say => {
  const lease = client.lease(1);
  await lease.put('kept').value('x');
  say((await first(lease, 'keepaliveSucceeded')).TTL);
  await first(lease, 'keepaliveSucceeded');
  say(await client.get('kept'));
  lease.release();
  await until(async () => !(await client.get('kept').exists()));
});

step('a lease that is lost', async say => {
  const lease = client.lease(60);
  const lost = first(lease, 'lost');
  await client.leaseClient.leaseRevoke({ ID: await lease.grant() });
  const error = await refusal(lease.keepaliveOnce());
  say(error.replace(/\d+/, 'ID'), (await lost).constructor.name);
});

// --- Watches ---

step('watches', async say => {
  const watcher = await client.watch().key('w').withPreviousKV().create();
  const seen = [];
  watcher.on('put', (kv, previous) => seen.push(['put', kv, previous]));
  watcher.on('delete', (kv, previous) => seen.push(['delete', kv, previous]));
  await client.put('w').value('1');
  await client.put('w').value('2');
  await client.put('other').value('3');
  const { header } = await client.delete().key('w').exec();
  await until(() => seen.length === 3);
  say(seen, watcher.lastRevision());
  await watcher.cancel();
  await client.put('w').value('4');

  const history = await client
    .watch()
    .prefix('w')
    .startRevision(`${Number(header.revision) - 3}`)
    .create();
  const events = [];
  history.on('data', response => events.push(...response.events));
  await until(() => events.length >= 4);
  say(events);
  await history.cancel();
});

step('watches with filters', async say => {
  const seen = { puts: [], deletes: [], all: [] };
  const watchers = [
    [client.watch().inRange({ start: 'f', end: 'g' }).only('put'), 'puts'],
    // In this release the same as `only`.
    [client.watch().inRange(Range.prefix('f')).ignore('delete'), 'deletes'],
    [client.watch().prefix('f'), 'all'],
  ];
  for (const [builder, kind] of watchers) {
    const watcher = await builder.create();
    watcher.on('data', response => seen[kind].push(...response.events));
  }
  await client.if('none', 'Create', '==', 0).then(client.put('f1').value('1'), client.put('f2').value('2')).commit();
  await client.delete().prefix('f');
  await client.put('f3').value('3');
  await until(() => seen.all.length === 5 && seen.puts.length === 3 && seen.deletes.length === 2);
  say(seen);
});

step('a watch of what is compacted', async say => {
  const { header } = await client.put('w').value('5');
  await client.kv.compact({ revision: header.revision });
  const watcher = client.watch().key('w').startRevision('1').watcher();
  const error = await first(watcher, 'error');
  say(`${error.constructor.name}: ${error.message}`);
});

// --- Locks, elections, namespaces ---

step('locks', async say => {
  const lock = client.lock('lock').ttl(30);
  say(await lock.leaseId());
  await lock.acquire();
  say(await client.getAll().prefix('lock').keys(), (await lock.leaseId()) !== null);
  say(await refusal(client.lock('lock').acquire()));
  await lock.release();
  say(await client.getAll().prefix('lock').keys(), await client.lock('lock').do(() => 'done'));
});

step('elections', async say => {
  const election = client.election('post', 30);
  say((await election.leader()) === undefined);
  const one = election.campaign('one');
  await one.wait();
  say(await election.leader(), (await one.getCampaignKey()).startsWith('election/post/'));
  const observer = await election.observe();
  say(observer.leader());
  const two = election.campaign('two');
  const elected = first(two, 'elected');
  await one.proclaim('one again');
  await until(() => observer.leader() === 'one again');
  await one.resign();
  await elected;
  await until(() => observer.leader() === 'two');
  say(observer.leader());
  await two.resign();
  await until(() => !observer.hasLeader);
  await observer.cancel();
  say(await refusal(two.proclaim('late')));
});

step('namespaces', async say => {
  const space = client.namespace('space/');
  const within = await space.watch().prefix('').create();
  const event = first(within, 'put');
  await space.put('k').value('v');
  say(await event, await space.get('k'), await client.get('space/k'), await space.getAll().keys());
  say(await space.if('k', 'Version', '==', 1).then(space.get('k')).commit());
  say(
    await space
      .namespace('deeper/')
      .lock('l')
      .do(() => client.getAll().prefix('space/').keys()),
  );
  say(await space.delete().all(), await client.getAll().prefix('space/').count());
  await within.cancel();
});

// --- The server ---

step('members and maintenance', async say => {
  const { leader, dbSize, raftIndex, raft_term, ...status } = await client.maintenance.status();
  say(status.version, leader === status.header.member_id, Number(dbSize) > 0, Number(raftIndex) > 0, raft_term);
  say(await client.cluster.memberList({}));
  say(await client.maintenance.alarm({ action: 'Get' }));
  say(await client.maintenance.defragment());
  const [one, other] = [await client.maintenance.hash(), await client.maintenance.hash()];
  say(one.hash === other.hash);
  say(await client.maintenance.downgrade({ action: 'Validate', version: '3.6.0' }));
  say(await refusal(client.maintenance.downgrade({ action: 'Validate', version: '3.4.0' })));
  say(await refusal(client.maintenance.moveLeader({ targetID: 1 })));
  say(await refusal(client.cluster.memberRemove({ ID: 1 })), await refusal(client.cluster.memberPromote({ ID: 1 })));
  say(await refusal(client.cluster.memberUpdate({ ID: 1, peerURLs: ['http://127.0.0.1:1'] })));
  const { member } = await client.cluster.memberAdd({ peerURLs: ['http://127.0.0.1:1'], isLearner: true });
  say(
    { ...member, ID: 0 },
    await refusal(client.cluster.memberAdd({ peerURLs: ['http://127.0.0.1:1'], isLearner: true })),
  );
  say(await client.cluster.memberRemove({ ID: member.ID }));
  const parts = [];
  for await (const part of await client.maintenance.snapshot()) parts.push(part.blob.length);
  say(parts.length > 0, parts.reduce((a, b) => a + b) > 0);
});

step('deadlines and closed clients', async say => {
  say((await refusal(client.get('a').options({ deadline: new Date(0) }))).split(':')[0]);
  const closed = connect();
  say(await closed.get('none'));
  closed.close();
  say((await refusal(closed.get('none'))).split(':')[0]);
  const nobody = connect({ hosts: 'localhost:1', dialTimeout: 500 });
  say((await refusal(nobody.get('none'))).split(':')[0]);
  nobody.close();
});

step('mocks', async say => {
  client.mock({
    exec: (service, method, payload) =>
      Promise.resolve({ kvs: [{ key: payload.key, value: Buffer.from(service + method) }] }),
  });
  say(await client.get('any'));
  client.unmock();
  say(await client.get('any'));
});

// --- Users: the last steps, for they turn authentication on ---

step('roles and users', async say => {
  const role = client.role('reader');
  say(
    role instanceof Role,
    await refusal(role.permissions()),
    (await role.create()).name,
    await refusal(role.create()),
  );
  await role.grant([
    { permission: 'Read', range: client.range({ prefix: 'open/' }) },
    { permission: 'Readwrite', key: 'mine' },
  ]);
  say(await role.permissions());
  await role.grant({ permission: 'Write', key: 'gone' });
  await role.revoke({ permission: 'Write', key: 'gone' });
  say(
    await role.permissions(),
    (await client.getRoles()).map(one => one.name),
  );
  say(await refusal(role.revoke({ permission: 'Write', key: 'gone' })));
  const user = client.user('somebody');
  say(user instanceof User, (await user.create('pw')).name, await refusal(user.create('pw')));
  say(
    await refusal(user.addRole('none')),
    await refusal(user.removeRole('reader')),
    await refusal(client.user('none').roles()),
  );
  await user.addRole(role);
  say(
    (await user.roles()).map(one => one.name),
    (await client.getUsers()).map(one => one.name),
  );
  await role.removeUser(user);
  say((await user.roles()).map(one => one.name));
  await role.addUser('somebody');
  await user.setPassword('other');
  say(
    await client.auth.authStatus(),
    await refusal(client.auth.authEnable()),
    await refusal(client.auth.authenticate({ name: 'somebody', password: 'other' })),
  );
});

step('authentication', async say => {
  await (await client.user('root').create('root')).addRole(await client.role('root').create());
  await client.put('open/a').value('1');
  await client.auth.authEnable();
  const as = (username, password) => connect({ auth: { username, password } });
  const [root, somebody] = [as('root', 'root'), as('somebody', 'other')];
  say(await refusal(client.get('open/a')));
  say(await refusal(as('somebody', 'pw').get('open/a')), await refusal(as('nobody', 'pw').get('open/a')));
  say(
    await somebody.get('open/a'),
    await somebody.put('mine').value('2'),
    await somebody.getAll().prefix('open/').strings(),
  );
  say(
    await refusal(somebody.put('open/a').value('3')),
    await refusal(somebody.get('closed')),
    await refusal(somebody.getAll()),
  );
  say(
    await refusal(somebody.if('closed', 'Version', '==', 0).then(somebody.get('mine')).commit()),
    await refusal(somebody.getRoles()),
  );
  say(await refusal(somebody.delete().all()), await refusal(somebody.maintenance.defragment()));
  const watcher = somebody.watch().key('closed').watcher();
  const error = await first(watcher, 'error');
  say(`${error.constructor.name}: ${error.message}`);
  say(await root.auth.authDisable(), await client.get('open/a'));
  await client.user('somebody').delete();
  await client.role('reader').delete();
  say(
    (await client.getUsers()).map(one => one.name),
    (await client.getRoles()).map(one => one.name),
  );
  root.close();
  somebody.close();
});

(async () => {
  const lines = [];
  for (const [name, work] of steps) {
    const said = [];
    let failed;
    const limit = new Promise((_, reject) => setTimeout(() => reject(new Error('takes too long')), 30000).unref());
    await Promise.race([
      work((...values) => said.push(...values.map(value => (value === undefined ? null : plain(value))))),
      limit,
    ]).catch(error => {
      failed = error;
    });
    if (failed) console.error(name, failed);
    lines.push([name.replaceAll(' ', '_'), failed ? 'failed' : 'passed', JSON.stringify(said)].join('\t') + '\n');
  }
  fs.writeFileSync(file, lines.join(''));
  process.exit(0);
})();

//! The workloads: closed loops of calls over a fixed number of connections.

use std::{
    cell::{Cell, RefCell},
    rc::Rc,
    time::{Duration, Instant},
};

use hdrhistogram::Histogram;
use urd_client::{
    Client, Error,
    etcdserverpb::{LeaseKeepAliveRequest, RangeRequest},
};

use crate::process;

#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Workload {
    Put,
    PutOne,
    Get,
    GetSerializable,
    KeepAlive,
}

impl Workload {
    pub fn name(self) -> &'static str {
        match self {
            Workload::Put => "put",
            Workload::PutOne => "put, one client",
            Workload::Get => "get",
            Workload::GetSerializable => "get, serializable",
            Workload::KeepAlive => "keep-alive",
        }
    }

    pub fn is_single(self) -> bool {
        self == Workload::PutOne
    }
}

pub struct Plan {
    pub clients: usize,
    pub connections: usize,
    pub duration: Duration,
    pub value_bytes: usize,
    pub keys: u64,
    pub pid: Option<u32>,
}

pub struct Outcome {
    pub operations: u64,
    pub elapsed: Duration,
    pub latency_us: Histogram<u64>,
    /// Of the server, all threads; zero if its process is not known.
    pub cpu: Duration,
    pub rss_bytes: u64,
}

impl Outcome {
    pub fn rate(&self) -> f64 {
        self.operations as f64 / self.elapsed.as_secs_f64()
    }

    pub fn cpu_us_per_op(&self) -> f64 {
        self.cpu.as_secs_f64() * 1e6 / self.operations.max(1) as f64
    }
}

/// What the loops of one run share.
struct Tally {
    until: Cell<Instant>,
    measuring: Cell<bool>,
    operations: Cell<u64>,
    latency_us: RefCell<Histogram<u64>>,
    failure: RefCell<Option<String>>,
}

impl Tally {
    fn done(&self, started: Instant) {
        if self.measuring.get() {
            self.operations.set(self.operations.get() + 1);
            self.latency_us.borrow_mut().saturating_record(started.elapsed().as_micros() as u64);
        }
    }
}

/// 32 bytes of key.
fn key(number: u64) -> String {
    format!("/bench/{number:025}")
}

/// A cheap sequence that visits the keys in no order (a full-period linear congruence: Knuth, TAOCP vol. 2, 3.2.1).
struct Keys {
    state: u64,
    count: u64,
}

impl Keys {
    fn next(&mut self) -> String {
        self.state = self.state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        key((self.state >> 33) % self.count)
    }
}

pub async fn drive(endpoint: &str, workload: Workload, plan: Plan) -> Result<Outcome, String> {
    let text = |cause: Error| format!("{endpoint}: {cause}");
    let mut connections = Vec::new();
    for _ in 0..plan.connections.min(plan.clients) {
        connections.push(Client::connect(endpoint).await.map_err(text)?);
    }
    if matches!(workload, Workload::Get | Workload::GetSerializable) {
        fill(&connections, &plan).await.map_err(text)?;
    }
    let tally = Rc::new(Tally {
        until: Cell::new(Instant::now() + Duration::from_secs(3600)),
        measuring: Cell::new(false),
        operations: Cell::new(0),
        latency_us: RefCell::new(Histogram::new_with_max(60_000_000, 3).expect("a minute at three digits is allowed")),
        failure: RefCell::new(None),
    });
    let mut loops = Vec::new();
    for at in 0..plan.clients {
        let client = connections[at % connections.len()].clone();
        let tally = tally.clone();
        let keys = Keys { state: at as u64 * 7919, count: plan.keys };
        let value = vec![b'v'; plan.value_bytes];
        loops.push(tokio::task::spawn_local(async move {
            if let Err(cause) = client_loop(client, workload, keys, value, &tally).await {
                *tally.failure.borrow_mut() = Some(cause.to_string());
            }
        }));
    }
    // A second to warm up, then the measured time.
    tokio::time::sleep(Duration::from_secs(1)).await;
    let cpu_before = plan.pid.map_or(Duration::ZERO, process::cpu_of);
    let started = Instant::now();
    tally.measuring.set(true);
    tokio::time::sleep(plan.duration).await;
    tally.measuring.set(false);
    let elapsed = started.elapsed();
    let cpu = plan.pid.map_or(Duration::ZERO, process::cpu_of) - cpu_before;
    tally.until.set(Instant::now());
    for one in loops {
        one.await.map_err(|cause| cause.to_string())?;
    }
    if let Some(failure) = tally.failure.borrow_mut().take() {
        return Err(format!("{endpoint}: {failure}"));
    }
    let latency_us = tally.latency_us.borrow().clone();
    let rss_bytes = plan.pid.map_or(0, process::rss_of);
    Ok(Outcome { operations: tally.operations.get(), elapsed, latency_us, cpu, rss_bytes })
}

async fn fill(connections: &[Client], plan: &Plan) -> Result<(), Error> {
    let next = Rc::new(Cell::new(0));
    let mut loops = Vec::new();
    for at in 0..64 {
        let (client, next) = (connections[at % connections.len()].clone(), next.clone());
        let (value, keys) = (vec![b'v'; plan.value_bytes], plan.keys);
        loops.push(tokio::task::spawn_local(async move {
            loop {
                let number = next.replace(next.get() + 1);
                if number >= keys {
                    return Ok::<(), Error>(());
                }
                client.put(key(number), value.clone()).await?;
            }
        }));
    }
    for one in loops {
        one.await.expect("a loop ends by itself")?;
    }
    Ok(())
}

async fn client_loop(
    client: Client,
    workload: Workload,
    mut keys: Keys,
    value: Vec<u8>,
    tally: &Tally,
) -> Result<(), Error> {
    let mut alive = None;
    if workload == Workload::KeepAlive {
        let lease = client.grant(0, 600).await?.id;
        let (sender, receiver) = client.stream::<LeaseKeepAliveRequest>().await?;
        alive = Some((lease, sender, receiver));
    }
    let value = bytes::Bytes::from(value);
    while Instant::now() < tally.until.get() {
        let started = Instant::now();
        match workload {
            Workload::Put | Workload::PutOne => {
                client.put(keys.next(), value.clone()).await?;
            }
            Workload::Get | Workload::GetSerializable => {
                let serializable = workload == Workload::GetSerializable;
                let request = RangeRequest { key: keys.next().into(), serializable, ..Default::default() };
                client.call(&request).await?;
            }
            Workload::KeepAlive => {
                let (lease, sender, receiver) = alive.as_mut().expect("opened above");
                sender.send(&LeaseKeepAliveRequest { id: *lease })?;
                receiver.expect().await?;
            }
        }
        tally.done(started);
    }
    Ok(())
}

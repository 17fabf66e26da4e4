//! Unary calls and keep-alives in a closed loop: each caller sends its next call when the one before is answered. Which
//! call that is, is a `Mix`; the open loop draws from the same.

use std::{
    cell::{Cell, RefCell},
    rc::Rc,
    time::{Duration, Instant},
};

use bytes::Bytes;
use prost::Message;
use tokio::task::JoinHandle;
use urd_client::{
    Client, Receiver, Sender,
    etcdserverpb::{
        Compare, LeaseGrantRequest, LeaseKeepAliveRequest, LeaseKeepAliveResponse, RangeRequest, TxnRequest,
        compare::{CompareResult, CompareTarget, TargetUnion},
    },
    frame, op,
};

use super::{OpenLoop, Site};
use crate::{
    gauge::Stopwatch,
    machine,
    measure::{Latency, Outcome},
    plan::{Plan, Workload},
    wire,
};

/// A call: where it goes, what it carries, and how long an answer must be that has what was asked for.
pub struct Request {
    pub path: &'static str,
    pub body: Bytes,
    pub answer_bytes_min: usize,
}

impl Request {
    pub async fn call(self, client: &Client) -> Result<(), String> {
        let answer = client.unary_bytes(self.path, self.body).await.map_err(|cause| cause.to_string())?;
        match answer.len() >= self.answer_bytes_min {
            true => Ok(()),
            false => Err(format!("an answer of {} bytes where the key's value was asked for", answer.len())),
        }
    }
}

/// Numbers below a count in no order (a linear congruence modulo 2⁶⁴: Knuth, TAOCP vol. 2, 3.3.4).
pub struct Keys {
    state: u64,
    count: u64,
}

impl Keys {
    pub fn new(seed: u64, count: u64) -> Self {
        Keys { state: seed.wrapping_mul(0x9e37_79b9_7f4a_7c15), count: count.max(1) }
    }

    pub fn next_number(&mut self) -> u64 {
        self.state = self.state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        (self.state >> 33) % self.count
    }
}

/// The calls of one caller.
pub struct Mix {
    workload: Workload,
    keys: Keys,
    dice: Keys,
    value: Bytes,
    span: u64,
    read_percent: u64,
}

impl Mix {
    pub fn new(plan: &Plan, seed: u64) -> Self {
        Mix {
            workload: plan.workload,
            keys: Keys::new(seed, plan.keys),
            dice: Keys::new(seed ^ 0x5eed, 100),
            value: vec![b'v'; plan.value_bytes].into(),
            span: plan.span.clamp(1, plan.keys.max(1)),
            read_percent: u64::from(plan.read_percent),
        }
    }

    /// Puts, whatever the plan's workload is.
    pub fn of_puts(plan: &Plan, seed: u64) -> Self {
        Mix { workload: Workload::Put, ..Mix::new(plan, seed) }
    }

    /// `number`: how many calls the whole run has made before.
    pub fn next_request(&mut self, number: u64) -> Request {
        match self.workload {
            Workload::Load => self.put(number),
            Workload::Get => self.get(false),
            Workload::GetSerializable => self.get(true),
            Workload::Range => self.range(),
            Workload::Txn => self.txn(),
            Workload::Mixed if self.dice.next_number() < self.read_percent => self.get(false),
            Workload::LeaseGrant => Request {
                path: "/etcdserverpb.Lease/LeaseGrant",
                body: frame(&LeaseGrantRequest { id: 0, ttl: 600 }),
                answer_bytes_min: 0,
            },
            _ => {
                let number = self.keys.next_number();
                self.put(number)
            }
        }
    }

    fn put(&self, number: u64) -> Request {
        Request { path: wire::PUT, body: wire::put(&wire::key(number), &self.value, 0), answer_bytes_min: 0 }
    }

    fn get(&mut self, serializable: bool) -> Request {
        let body = wire::get(&wire::key(self.keys.next_number()), serializable);
        Request { path: wire::RANGE, body, answer_bytes_min: self.value.len() }
    }

    fn range(&mut self) -> Request {
        let first = self.keys.next_number().min(self.keys.count - self.span);
        let request = RangeRequest {
            key: wire::key(first).to_vec().into(),
            range_end: wire::key(first + self.span).to_vec().into(),
            ..Default::default()
        };
        Request { path: wire::RANGE, body: frame(&request), answer_bytes_min: self.value.len() * self.span as usize }
    }

    fn txn(&mut self) -> Request {
        let key = Bytes::from(wire::key(self.keys.next_number()).to_vec());
        let is_there = Compare {
            result: CompareResult::Greater as i32,
            target: CompareTarget::Version as i32,
            key: key.clone(),
            target_union: Some(TargetUnion::Version(0)),
            ..Default::default()
        };
        let txn = TxnRequest {
            compare: vec![is_there],
            success: vec![op::put(key.clone(), self.value.clone())],
            failure: vec![op::get(key)],
        };
        Request { path: "/etcdserverpb.KV/Txn", body: frame(&txn), answer_bytes_min: 0 }
    }
}

/// What the callers of one run share.
#[derive(Default)]
pub struct Tally {
    is_over: Cell<bool>,
    is_measuring: Cell<bool>,
    begun: Cell<u64>,
    done: Cell<u64>,
    latency: RefCell<Latency>,
    failure: RefCell<Option<String>>,
}

impl Tally {
    pub fn shared() -> Rc<Self> {
        Rc::default()
    }

    /// Starts a caller. Its failure ends the run.
    pub fn spawn(self: &Rc<Self>, caller: impl Future<Output = Result<(), String>> + 'static) -> JoinHandle<()> {
        let tally = self.clone();
        tokio::task::spawn_local(async move {
            if let Err(cause) = caller.await {
                tally.is_over.set(true);
                tally.failure.borrow_mut().get_or_insert(cause);
            }
        })
    }

    /// Lets callers go on until they have done what the plan says, or for as long as it says.
    pub async fn measure(&self, site: &Site, plan: &Plan, callers: Vec<JoinHandle<()>>) -> Result<Outcome, String> {
        let mut outcome = Outcome::default();
        if let Some(operations) = plan.operations {
            self.is_measuring.set(true);
            let stopwatch = Stopwatch::start(site.gauge.as_ref());
            site.progress.begin(operations);
            while callers.iter().any(|caller| !caller.is_finished()) {
                tokio::time::sleep(Duration::from_millis(2)).await;
                site.progress.at(self.done.get());
            }
            outcome.take(stopwatch.lap());
        } else {
            tokio::time::sleep(Duration::from_secs_f64(plan.warm_up_seconds)).await;
            self.is_measuring.set(true);
            let stopwatch = Stopwatch::start(site.gauge.as_ref());
            site.progress.wait(Duration::from_secs_f64(plan.seconds)).await;
            self.is_measuring.set(false);
            outcome.take(stopwatch.lap());
            self.is_over.set(true);
        }
        for caller in callers {
            caller.await.map_err(|cause| cause.to_string())?;
        }
        self.check()?;
        outcome.operations = self.done.get();
        outcome.latency = self.latency.take();
        Ok(outcome)
    }

    /// The number of the next operation; None once there is none.
    pub fn next(&self, limit: u64) -> Option<u64> {
        let number = self.begun.replace(self.begun.get() + 1);
        (!self.is_over.get() && number < limit).then_some(number)
    }

    pub fn done(&self, begin: Instant) {
        if self.is_measuring.get() {
            self.done.set(self.done.get() + 1);
            self.latency.borrow_mut().record(begin.elapsed());
        }
    }

    fn check(&self) -> Result<(), String> {
        self.failure.borrow_mut().take().map_or(Ok(()), Err)
    }
}

pub async fn run(site: &Site, plan: &Plan) -> Result<Outcome, String> {
    let mut outcome = match plan.rate {
        None => closed(site, plan).await,
        Some(_) if plan.workload == Workload::KeepAlive => Err("keep-alive has a closed loop only".to_owned()),
        Some(rate) => open(site, plan, rate).await,
    }?;
    if plan.callers == 1 && plan.workload == Workload::Put && plan.operations.is_none() {
        note_sync(site, &mut outcome);
    }
    Ok(outcome)
}

/// What the disk itself takes for a durable write, in the same place at the same time: the floor of a single put.
pub fn note_sync(site: &Site, outcome: &mut Outcome) {
    let folder = site.gauge.as_ref().and_then(|gauge| gauge.data_dir.as_deref()?.parent().map(ToOwned::to_owned));
    if let Some(ms) = folder.and_then(|folder| machine::sync_ms(&folder, machine::SYNC_PROBES).ok()) {
        outcome.set("device_sync_ms", ms);
    }
}

pub async fn closed(site: &Site, plan: &Plan) -> Result<Outcome, String> {
    let connections = site.connections(plan.connections.min(plan.callers).max(1)).await?;
    let (tally, limit) = (Tally::shared(), plan.operations.unwrap_or(u64::MAX));
    let mut callers = Vec::with_capacity(plan.callers);
    for at in 0..plan.callers {
        let caller = Caller::new(connections[at % connections.len()].clone(), plan, at as u64).await?;
        let seen = tally.clone();
        callers.push(tally.spawn(async move { caller.run(&seen, limit).await }));
    }
    tally.measure(site, plan, callers).await
}

async fn open(site: &Site, plan: &Plan, rate: f64) -> Result<Outcome, String> {
    let connections = site.connections(plan.connections.max(1)).await?;
    let mut mix = Mix::new(plan, 1);
    let open = OpenLoop::start(connections, rate, move |number| mix.next_request(number))?;
    tokio::time::sleep(Duration::from_secs_f64(plan.warm_up_seconds)).await;
    open.measure_from_now();
    let stopwatch = Stopwatch::start(site.gauge.as_ref());
    site.progress.wait(Duration::from_secs_f64(plan.seconds)).await;
    let mut outcome = Outcome { latency: open.finish().await?, ..Outcome::default() };
    outcome.take(stopwatch.lap());
    outcome.operations = outcome.latency.count();
    Ok(outcome)
}

struct Caller {
    client: Client,
    mix: Mix,
    /// Its lease, on a stream of its own.
    lease: Option<(i64, Sender<LeaseKeepAliveRequest>, Receiver<LeaseKeepAliveResponse>)>,
}

impl Caller {
    async fn new(client: Client, plan: &Plan, seed: u64) -> Result<Self, String> {
        let lease = match plan.workload {
            Workload::KeepAlive => {
                let id = client.grant(0, 600).await.map_err(|cause| cause.to_string())?.id;
                let (sender, receiver) = client.stream().await.map_err(|cause| cause.to_string())?;
                Some((id, sender, receiver))
            }
            _ => None,
        };
        Ok(Caller { client, mix: Mix::new(plan, seed), lease })
    }

    async fn run(mut self, tally: &Tally, limit: u64) -> Result<(), String> {
        while let Some(number) = tally.next(limit) {
            let begin = Instant::now();
            match &mut self.lease {
                None => self.mix.next_request(number).call(&self.client).await?,
                Some((id, sender, receiver)) => renew(*id, sender, receiver).await?,
            }
            tally.done(begin);
        }
        Ok(())
    }
}

async fn renew(
    id: i64,
    sender: &mut Sender<LeaseKeepAliveRequest>,
    receiver: &mut Receiver<LeaseKeepAliveResponse>,
) -> Result<(), String> {
    sender.send(&LeaseKeepAliveRequest { id }).map_err(|cause| cause.to_string())?;
    let answer = receiver.next_bytes().await.map_err(|cause| cause.to_string())?.ok_or("the stream has ended")?;
    // The time to live of a lease that is gone is 0, which is not written.
    match wire::Fields(&answer).number(3) {
        Some(_) => Ok(()),
        None => Err(format!("a lease is gone: {:?}", LeaseKeepAliveResponse::decode(answer))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_spread_over_all_keys() {
        let mut keys = Keys::new(3, 100);
        let mut seen = vec![0; 100];
        (0..10_000).for_each(|_| seen[keys.next_number() as usize] += 1);
        assert!(seen.iter().all(|times| (50..200).contains(times)), "{seen:?}");
    }

    #[test]
    fn a_mix_has_the_share_of_reads_that_was_asked_for() {
        let reads = |read_percent| {
            let mut mix = Mix::new(&Plan { workload: Workload::Mixed, read_percent, ..Plan::default() }, 1);
            (0..10_000).filter(|number| mix.next_request(*number).path == wire::RANGE).count()
        };
        assert_eq!((reads(0), reads(100)), (0, 10_000));
        assert!((2_700..3_300).contains(&reads(30)));
    }

    #[test]
    fn a_range_ends_within_the_keys() {
        let mut mix = Mix::new(&Plan { workload: Workload::Range, keys: 3, span: 50, ..Plan::default() }, 1);
        let request = RangeRequest::decode(mix.next_request(0).body.slice(5..)).unwrap();
        assert_eq!((&request.key[..], &request.range_end[..]), (&wire::key(0)[..], &wire::key(3)[..]));
    }
}

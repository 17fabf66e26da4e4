//! What only the member that leads can answer, asked of it on a client's behalf. (etcd: v3_server.go, LeaseRenew,
//! leaseTimeToLive; server.go, PromoteMember and waitLeader.)

use std::{pin::pin, sync::atomic::Ordering::Relaxed, time::Duration};

use futures_util::future::{Either, select};

use super::service::Services;
use crate::{
    error::{self, Status},
    peers::{client::Client, remote::Refusal},
    runtime,
    shard::Shard,
    store::membership::Member,
};

/// Asks the leader once, at each of its URLs until one answers. None: it may be asked again. `until_ms`: by the shard's clock,
/// how long the caller waits.
///
/// # Errors
/// What the leader has decided; that there is none.
pub(super) async fn ask<T>(
    services: &Services,
    until_ms: u64,
    question: impl AsyncFn(&Client, &str, Duration) -> Result<T, Refusal>,
) -> Result<Option<T>, Status> {
    let shard = &services.shard;
    let leader = leader(shard, until_ms).await?;
    if leader.id == shard.member.id {
        return Ok(None);
    }
    let patience = Duration::from_millis(until_ms.saturating_sub(runtime::now_ms()));
    let asked = runtime::timeout(patience, async {
        let _turn = services.forwards.acquire().await.expect("it is never closed");
        for url in &leader.peer_urls {
            let left = Duration::from_millis(until_ms.saturating_sub(runtime::now_ms()));
            match question(&services.client, url, left).await {
                Ok(told) => return Ok(Some(told)),
                Err(Refusal::Final(status)) => return Err(status),
                Err(Refusal::Again(_)) => {}
            }
        }
        Ok(None)
    });
    match select(pin!(asked), pin!(leads_no_more(shard, leader.id))).await {
        Either::Left((answer, _)) => answer.unwrap_or(Ok(None)),
        Either::Right(_) => Ok(None),
    }
}

/// Until another leads, or nobody: one that stands still answers nothing, and whoever leads now can.
async fn leads_no_more(shard: &Shard, id: u64) {
    while shard.member.standing.leader.load(Relaxed) == id {
        runtime::sleep(Duration::from_millis(shard.member.config.heartbeat_ms)).await;
    }
}

/// The member that leads, waited for.
async fn leader(shard: &Shard, until_ms: u64) -> Result<Member, Status> {
    loop {
        shard.check_running()?;
        let id = shard.member.standing.leader.load(Relaxed);
        let known = shard.published.look(|view| view.state.membership.get(id).cloned());
        match known {
            Some(leader) if leader.peer_urls.is_empty() => return Err(error::NO_LEADER),
            Some(leader) => return Ok(leader),
            None if runtime::now_ms() >= until_ms => return Err(error::NO_LEADER),
            None => runtime::sleep(Duration::from_millis(shard.member.config.heartbeat_ms)).await,
        }
    }
}

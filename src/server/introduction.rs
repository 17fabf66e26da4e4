//! A member that starts tells the cluster its name and where its clients find it. (etcd: server.go, publishV3.)

use std::time::Duration;

use crate::{error::Status, log, observe::log::shown, raft::bootstrap, runtime, shard::Shard};

/// How long it waits after it was not heard, in milliseconds: most of a start's time is the cluster's first election.
const AGAIN_MS: u64 = 10;

/// Until the cluster knows it.
pub(super) async fn publish(shard: &Shard) {
    let (member, config) = (&shard.member, &shard.member.config);
    loop {
        let id = member.next_id();
        let request = bootstrap::attributes_request(id, member.id, &config.name, &config.advertise_client_urls);
        shard.advance(runtime::now_ms());
        let published: Result<(), Status> = match shard.propose(id, request).await {
            Ok((applied, _)) => applied.map(drop),
            Err(status) => Err(status),
        };
        match published {
            Ok(()) => break,
            Err(status) => {
                log!(
                    Warn,
                    "failed to publish local member to cluster through raft",
                    "local-member-id" = crate::observe::log::hex(member.id),
                    "publish-timeout" = Duration::from_millis(config.request_timeout_ms()),
                    "error" = shown(&status)
                );
                runtime::sleep(Duration::from_millis(AGAIN_MS)).await;
            }
        }
    }
    log!(
        Info,
        "published local member to cluster through raft",
        "local-member-id" = crate::observe::log::hex(member.id),
        "cluster-id" = crate::observe::log::hex(member.cluster_id)
    );
}

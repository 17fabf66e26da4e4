//! How a member comes by entries that its own disk has lost: it asks the others for them, before it starts. Until then it has no
//! raft core, so it neither votes nor acknowledges anything. Blocking; runs before the executors start.

use std::time::{Duration, Instant};

use super::founding;
use crate::{
    config::Config,
    limits, log,
    observe::log::hex,
    peers::{
        client::Client,
        remote::{self, NoEntries},
    },
    runtime,
    store::membership::Member,
    wal::mend::{Gift, Wanted},
};

/// Asks every member that is known, again and again for a while, for entries that are wanted. `first_members`: those of before the
/// log told of any.
///
/// # Errors
/// Why nobody gives them.
pub(super) fn ask(config: &Config, first_members: &[Member], wanted: &Wanted<'_>) -> Result<Gift, String> {
    let gap = wanted.gap;
    let mut members: Vec<Member> = Vec::new();
    for member in gap.members.iter().chain(first_members) {
        if member.id != gap.member_id && members.iter().all(|known| known.id != member.id) {
            members.push(member.clone());
        }
    }
    if members.is_empty() {
        return Err("no other member is known that could be asked for what is lost".into());
    }
    log!(
        Warn,
        "the log is damaged; other members are asked for what is lost",
        "segment" = format!("{:08x}", gap.life),
        "offset" = u64::from(gap.offset),
        "first-index" = wanted.from,
        "last-index" = wanted.to
    );
    let asked = Asked {
        members,
        cluster_id: gap.cluster_id,
        from: wanted.from,
        to: wanted.to,
        // One entry may be as large as a request, and some more for its envelope.
        bytes_max: 2 * limits::PEER_ENTRIES_BYTES as usize + config.max_request_bytes,
        patience: Duration::from_millis(config.request_timeout_ms()),
    };
    founding::ask(config, async move |client| asked.of_any(client).await)?
}

struct Asked {
    members: Vec<Member>,
    cluster_id: u64,
    from: u64,
    to: u64,
    bytes_max: usize,
    /// For one answer.
    patience: Duration,
}

impl Asked {
    async fn of_any(&self, client: &Client) -> Result<Gift, String> {
        let (began, limit) = (Instant::now(), Duration::from_millis(limits::MEND_PATIENCE_MS));
        let pause = Duration::from_millis(limits::MEND_ASK_AGAIN_MS);
        loop {
            let (mut said, mut may_come) = (Vec::new(), false);
            for member in &self.members {
                match self.of_one(client, member).await {
                    Ok(entries) => return Ok(Gift { entries, giver: format!("member {:x}", member.id) }),
                    Err(no) => {
                        may_come |= no.may_come();
                        said.push(format!("member {:x}: {no}", member.id));
                    }
                }
            }
            let is_over = began.elapsed() + pause > limit;
            if is_over || !may_come {
                let within = if is_over { format!(" within {} s", limit.as_secs()) } else { String::new() };
                return Err(format!(
                    "no other member has given entries {} to {}{within} ({})",
                    self.from,
                    self.to,
                    said.join("; ")
                ));
            }
            runtime::sleep(pause).await;
        }
    }

    async fn of_one(&self, client: &Client, member: &Member) -> Result<Vec<crate::wal::mend::Given>, NoEntries> {
        let mut refused = NoEntries::Never("it has no URL".into());
        for url in &member.peer_urls {
            let asked = remote::Entries {
                cluster_id: self.cluster_id,
                from: self.from,
                to: self.to,
                bytes_max: self.bytes_max,
            };
            match remote::entries(client, url, &asked, self.patience).await {
                Ok(entries) => return Ok(entries),
                Err(no) => refused = no,
            }
        }
        log!(Debug, "a member gives no entries", "remote-member-id" = hex(member.id), "error" = refused.to_string());
        Err(refused)
    }
}

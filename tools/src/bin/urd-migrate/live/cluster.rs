//! The cluster as it is reached: connections to its members, a token where there are users, and the calls that are made.
//! Whom to ask follows the members: who joins is known from the list of them, who leaves is forgotten.

use std::{
    cell::RefCell,
    collections::{BTreeMap, HashMap},
    time::Duration,
};

use futures_util::future::join_all;
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt},
    net::TcpStream,
    time::{sleep, timeout},
};
use urd_client::{
    Client, Code, Error, Options, Tls, Unary,
    etcdserverpb::{
        self, AuthenticateRequest, HashKvRequest, MemberAddRequest, MemberListRequest, MemberPromoteRequest,
        MemberRemoveRequest, MoveLeaderRequest, StatusRequest, StatusResponse,
    },
};

use super::steps::{Answer, Facts, Member};

/// A hash is compared anew when a compaction has come between, so many times.
const HASH_TRIES: usize = 40;
const HASH_PAUSE: Duration = Duration::from_millis(250);
/// Reading a whole database takes its time.
const HASH_PATIENCE: Duration = Duration::from_secs(600);
/// How often a token that was just given is shown again where it is not known, and how long after.
const TOKEN_WAITS: usize = 10;
const TOKEN_PAUSE: Duration = Duration::from_millis(100);
/// The metrics of a member are some hundred kB.
const HTTP_BYTES_MAX: u64 = 16 << 20;

/// How to get in, as etcdctl is told.
pub struct Access {
    pub endpoints: Vec<String>,
    pub tls: Option<Tls>,
    pub user: Option<(String, String)>,
    pub jwt: Option<String>,
    pub patience: Duration,
}

pub struct Cluster {
    access: Access,
    /// Client URLs of the plan, by which members may be reached that advertise others.
    planned: Vec<String>,
    connections: RefCell<HashMap<String, Client>>,
    /// By the URL where each is shown: a member may not know what another one has given. None where there are no users.
    tokens: RefCell<HashMap<String, Option<String>>>,
    /// Where each member has answered.
    reached: RefCell<BTreeMap<u64, String>>,
}

/// What hashing found.
#[derive(Debug, PartialEq, Eq)]
pub enum Compared {
    Same {
        revision: i64,
        hash: u32,
        members: usize,
    },
    /// Each member with its hash.
    Differ {
        revision: i64,
        hashes: Vec<(u64, u32)>,
    },
}

impl Cluster {
    pub fn new(access: Access, planned: Vec<String>) -> Cluster {
        Cluster {
            access,
            planned,
            connections: RefCell::default(),
            tokens: RefCell::default(),
            reached: RefCell::default(),
        }
    }

    pub fn has_credentials(&self) -> bool {
        self.access.user.is_some() || self.access.jwt.is_some()
    }

    /// Whether the tokens that members gave are signed, and not known by heart.
    pub fn has_signed_tokens(&self) -> bool {
        self.tokens.borrow().values().flatten().any(|token| token.split('.').count() == 3)
    }

    async fn client(&self, url: &str) -> Result<Client, Error> {
        if let Some(client) = self.connections.borrow().get(url) {
            return Ok(client.clone());
        }
        let (encrypted, address) = address_of(url).map_err(Error::Transport)?;
        let connect = async {
            match (&self.access.tls, encrypted) {
                (Some(tls), true) => tls.connect(address, Options::default()).await,
                (None, true) => {
                    Err(Error::Transport("an https URL needs --cacert or --insecure-skip-tls-verify".into()))
                }
                (_, false) => Client::connect_with(address, Options::default()).await,
            }
        };
        let client = self.in_time(self.access.patience, connect).await?;
        self.connections.borrow_mut().insert(url.to_owned(), client.clone());
        Ok(client)
    }

    async fn in_time<T>(&self, patience: Duration, call: impl Future<Output = Result<T, Error>>) -> Result<T, Error> {
        match timeout(patience, call).await {
            Ok(answer) => answer,
            Err(_) => Err(Error::Transport(format!("no answer within {} s", patience.as_secs_f32()))),
        }
    }

    /// One call of one member. A token that is not taken any more is replaced once.
    async fn call_within<Q: Unary>(&self, patience: Duration, url: &str, request: &Q) -> Result<Q::Answer, Error> {
        // Before anything is asked: who shows a certificate and no token is the user that the certificate names.
        let mut waits = TOKEN_WAITS;
        let mut has_logged_in = self.access.user.is_some() && !self.tokens.borrow().contains_key(url);
        if has_logged_in {
            // Nobody is asked for a token that there is nobody to be shown to.
            self.client(url).await?;
            self.log_in(url).await?;
        }
        loop {
            let client = self.client(url).await?;
            let token = self.tokens.borrow().get(url).cloned().flatten().or_else(|| self.access.jwt.clone());
            let client = token.map_or(client.clone(), |token| client.with_metadata("token", &token));
            let answer = self.in_time(patience, client.call(request)).await;
            match &answer {
                Err(Error::Transport(_)) => {
                    self.connections.borrow_mut().remove(url);
                }
                Err(error) if wants_log_in(error) && self.access.user.is_some() && !has_logged_in => {
                    has_logged_in = true;
                    self.log_in(url).await?;
                    continue;
                }
                // What a token of another member's is of, a learner hears a moment later.
                Err(error) if wants_log_in(error) && has_logged_in && waits > 0 => {
                    waits -= 1;
                    sleep(TOKEN_PAUSE).await;
                    continue;
                }
                _ => {}
            }
            return answer;
        }
    }

    async fn call<Q: Unary>(&self, url: &str, request: &Q) -> Result<Q::Answer, Error> {
        self.call_within(self.access.patience, url, request).await
    }

    /// The same of what changes nothing, so that it may be asked again: a connection may have been left over from a process
    /// that is gone.
    async fn ask<Q: Unary>(&self, url: &str, request: &Q) -> Result<Q::Answer, Error> {
        let had_one = self.connections.borrow().contains_key(url);
        match self.call(url, request).await {
            Err(Error::Transport(_)) if had_one => self.call(url, request).await,
            answer => answer,
        }
    }

    /// At the member itself first: another one's token is of what it may not have applied yet. A learner gives none.
    async fn log_in(&self, at: &str) -> Result<(), Error> {
        let Some((name, password)) = &self.access.user else { return Ok(()) };
        let request = AuthenticateRequest { name: name.clone(), password: password.clone() };
        let others: Vec<String> = self.reached.borrow().values().cloned().collect();
        let mut first_cause = None;
        for url in std::iter::once(at.to_owned()).chain(others).chain(self.access.endpoints.iter().cloned()) {
            let Ok(client) = self.client(&url).await else { continue };
            match self.in_time(self.access.patience, client.call(&request)).await {
                Ok(answer) => {
                    self.tokens.borrow_mut().insert(at.to_owned(), Some(answer.token));
                    return Ok(());
                }
                Err(error) if error.message().contains("authentication is not enabled") => {
                    self.tokens.borrow_mut().insert(at.to_owned(), None);
                    return Ok(());
                }
                Err(error) if error.message().contains("authentication failed") => return Err(error),
                Err(error) => {
                    if error.code().is_none() {
                        self.connections.borrow_mut().remove(&url);
                    }
                    first_cause.get_or_insert(error);
                }
            }
        }
        Err(first_cause.unwrap_or_else(|| Error::Transport("no member could be asked for a token".into())))
    }

    /// Members as one of them lists them, and what each says of itself.
    ///
    /// # Errors
    /// If nobody gives the list.
    pub async fn look(&self) -> Result<Facts, String> {
        let listed = self.list().await?;
        let ids: Vec<u64> = listed.iter().map(|member| member.id).collect();
        self.reached.borrow_mut().retain(|id, _| ids.contains(id));
        // Not advertised, but perhaps where the operator says that somebody is.
        self.find(&listed).await;
        let answers = join_all(listed.iter().map(|member| self.answer_of(member))).await;
        let members = listed.into_iter().zip(answers).map(|(member, answer)| Member {
            id: member.id,
            name: member.name,
            peer_urls: sorted(member.peer_ur_ls),
            client_urls: member.client_ur_ls,
            is_learner: member.is_learner,
            answer,
        });
        Ok(Facts { members: members.collect() })
    }

    async fn list(&self) -> Result<Vec<etcdserverpb::Member>, String> {
        let known: Vec<String> = self.reached.borrow().values().cloned().collect();
        // Who was named as an endpoint may have left by now: a run that goes on knows the new ones by the plan.
        let more = self.access.endpoints.iter().chain(&self.planned).filter(|url| !known.contains(url));
        let mut causes = Vec::new();
        for url in known.iter().chain(more) {
            match self.ask(url, &MemberListRequest { linearizable: true }).await {
                Ok(list) => return Ok(list.members),
                Err(cause) => causes.push(format!("{url}: {cause}")),
            }
        }
        Err(format!(
            "nobody lists the members; name an endpoint of one that is a member now (--endpoints):\n  {}",
            causes.join("\n  ")
        ))
    }

    /// Learns who answers at URLs that were given and not listed.
    async fn find(&self, listed: &[etcdserverpb::Member]) {
        let urls: Vec<&String> = {
            let reached = self.reached.borrow();
            if listed.iter().all(|member| reached.contains_key(&member.id)) {
                return;
            }
            let given = self.access.endpoints.iter().chain(&self.planned);
            given.filter(|url| reached.values().all(|known| known != *url)).collect()
        };
        let answers = join_all(urls.iter().map(|url| self.ask(url, &StatusRequest {}))).await;
        for (url, answer) in urls.into_iter().zip(answers) {
            if let Some(header) = answer.ok().and_then(|status| status.header) {
                self.reached.borrow_mut().entry(header.member_id).or_insert_with(|| url.clone());
            }
        }
    }

    async fn answer_of(&self, member: &etcdserverpb::Member) -> Result<Answer, String> {
        let known = self.reached.borrow().get(&member.id).cloned();
        let mut cause = "it has not told of its client URLs yet".to_owned();
        for url in known.iter().chain(member.client_ur_ls.iter().filter(|url| Some(*url) != known.as_ref())) {
            match self.ask(url, &StatusRequest {}).await {
                Ok(status) if status.header.is_some_and(|header| header.member_id == member.id) => {
                    self.reached.borrow_mut().insert(member.id, url.clone());
                    return Ok(answer(url, status));
                }
                Ok(_) => cause = format!("{url} is of another member"),
                Err(failed) => cause = format!("{url}: {failed}"),
            }
        }
        self.reached.borrow_mut().remove(&member.id);
        Err(cause)
    }

    /// Whether somebody answers as this member.
    pub async fn answers(&self, url: &str, id: u64) -> bool {
        let status = self.call_within(Duration::from_secs(2), url, &StatusRequest {}).await;
        status.is_ok_and(|status| status.header.is_some_and(|header| header.member_id == id))
    }

    pub async fn add_learner(&self, facts: &Facts, peer_urls: &[String]) -> Result<u64, Error> {
        let request = MemberAddRequest { peer_ur_ls: peer_urls.to_vec(), is_learner: true };
        let added = self.call(self.leaders_url(facts, None)?, &request).await?;
        Ok(added.member.map_or(0, |member| member.id))
    }

    pub async fn promote(&self, facts: &Facts, id: u64) -> Result<(), Error> {
        self.call(self.leaders_url(facts, None)?, &MemberPromoteRequest { id }).await.map(|_| ())
    }

    pub async fn remove(&self, facts: &Facts, id: u64) -> Result<(), Error> {
        self.call(self.leaders_url(facts, Some(id))?, &MemberRemoveRequest { id }).await?;
        // It is asked for nothing more.
        self.reached.borrow_mut().remove(&id);
        Ok(())
    }

    pub async fn move_leader(&self, facts: &Facts, target_id: u64) -> Result<(), Error> {
        self.call(self.leaders_url(facts, None)?, &MoveLeaderRequest { target_id }).await.map(|_| ())
    }

    /// Of the leader, or of another voter where it is not to be asked.
    fn leaders_url<'a>(&self, facts: &'a Facts, but: Option<u64>) -> Result<&'a str, Error> {
        let leader = facts.leader().filter(|leader| Some(leader.id) != but);
        let mut voters = leader.into_iter().chain(facts.voters().filter(|voter| Some(voter.id) != but));
        voters
            .find_map(|voter| voter.answer.as_ref().ok())
            .map(|answer| answer.url.as_str())
            .ok_or_else(|| Error::Transport("no voting member answers".into()))
    }

    /// One read-only call of any voter.
    pub async fn ask_any<Q: Unary>(&self, facts: &Facts, request: &Q) -> Result<Q::Answer, Error> {
        self.ask(self.leaders_url(facts, None)?, request).await
    }

    /// What each voter has of the keys' history up to one revision: the newest that the first one has. `but` is left out.
    ///
    /// # Errors
    /// If a member cannot be asked, or compactions come between every time.
    pub async fn compare(&self, facts: &Facts, but: Option<u64>) -> Result<Compared, String> {
        let voters: Vec<(u64, &str)> = facts
            .voters()
            .filter(|voter| Some(voter.id) != but)
            .filter_map(|voter| Some((voter.id, voter.answer.as_ref().ok()?.url.as_str())))
            .collect();
        let (_, first) = voters.first().ok_or("no voting member answers")?;
        let mut last = String::new();
        for _ in 0..HASH_TRIES {
            let newest = match self.ask(first, &HashKvRequest { revision: 0 }).await {
                Ok(answer) if answer.hash_revision > 0 => answer.hash_revision,
                Ok(answer) => answer.header.map_or(0, |header| header.revision),
                Err(cause) => return Err(format!("{first} does not tell its hash: {cause}")),
            };
            let request = HashKvRequest { revision: newest };
            let asked = voters.iter().map(|(_, url)| self.call_within(HASH_PATIENCE, url, &request));
            let mut found = Vec::new();
            for ((id, url), answer) in voters.iter().zip(join_all(asked).await) {
                match answer {
                    Ok(answer) => found.push((*id, answer)),
                    // It has not got there yet, or has just compacted that away: the next revision will do.
                    Err(error) if error.code() == Some(Code::OutOfRange) => last = format!("{url}: {error}"),
                    Err(Error::Transport(cause)) => last = format!("{url}: {cause}"),
                    Err(error) => return Err(format!("{url} does not tell its hash: {error}")),
                }
            }
            if found.len() == voters.len() {
                let compacted = found[0].1.compact_revision;
                if found.iter().all(|(_, answer)| answer.compact_revision == compacted) {
                    let hash = found[0].1.hash;
                    return Ok(match found.iter().all(|(_, answer)| answer.hash == hash) {
                        true => Compared::Same { revision: newest, hash, members: found.len() },
                        false => Compared::Differ {
                            revision: newest,
                            hashes: found.iter().map(|(id, answer)| (*id, answer.hash)).collect(),
                        },
                    });
                }
                last = "the members have compacted to different revisions".into();
            }
            sleep(HASH_PAUSE).await;
        }
        Err(format!("the members' hashes cannot be compared: {last}"))
    }

    /// A page over HTTP at a client URL; None where there is none.
    pub async fn page(&self, url: &str, path: &str) -> Option<String> {
        let (encrypted, address) = address_of(url).ok()?;
        let fetch = async {
            match (&self.access.tls, encrypted) {
                (Some(tls), true) => get(tls.stream(address).await.ok()?, address, path).await,
                (_, true) => None,
                (_, false) => get(TcpStream::connect(address).await.ok()?, address, path).await,
            }
        };
        timeout(self.access.patience, fetch).await.ok().flatten()
    }

    /// The version that the cluster states, from a member that tells it; else that of what it stores, which follows it.
    pub async fn version(&self, facts: &Facts) -> Option<String> {
        for voter in facts.voters() {
            let Ok(answer) = &voter.answer else { continue };
            if let Some(page) = self.page(&answer.url, "/version").await
                && let Ok(told) = serde_json::from_str::<serde_json::Value>(&page)
                && let Some(version) = told["etcdcluster"].as_str()
            {
                return Some(version.to_owned());
            }
        }
        let stored = facts.voters().find_map(|voter| Some(voter.answer.as_ref().ok()?.storage_version.clone()))?;
        (!stored.is_empty()).then_some(stored)
    }
}

fn wants_log_in(error: &Error) -> bool {
    let message = error.message();
    ["invalid auth token", "revision of auth store is old", "user name is empty"]
        .iter()
        .any(|text| message.contains(text))
}

fn answer(url: &str, status: StatusResponse) -> Answer {
    let count = |number: i64| u64::try_from(number).unwrap_or(0);
    Answer {
        url: url.to_owned(),
        version: status.version,
        storage_version: status.storage_version,
        downgrade: status.downgrade_info.filter(|info| info.enabled).map(|info| info.target_version),
        leader: status.leader,
        committed: status.raft_index,
        applied: status.raft_applied_index,
        db_bytes: count(status.db_size),
        quota_bytes: count(status.db_size_quota),
        alarms: status.errors.into_iter().filter(|error| !error.contains("no leader")).collect(),
    }
}

fn sorted(mut urls: Vec<String>) -> Vec<String> {
    urls.sort();
    urls
}

/// Whether it is encrypted, and `host:port`.
pub fn address_of(url: &str) -> Result<(bool, &str), String> {
    let (scheme, address) = url.split_once("://").unwrap_or(("http", url));
    let address = address.trim_end_matches('/');
    match scheme {
        "http" => Ok((false, address)),
        "https" => Ok((true, address)),
        _ => Err(format!("{url} cannot be reached from here: only http:// and https:// can")),
    }
}

async fn get(mut stream: impl AsyncRead + AsyncWrite + Unpin, address: &str, path: &str) -> Option<String> {
    let request = format!("GET {path} HTTP/1.0\r\nHost: {address}\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await.ok()?;
    let mut bytes = Vec::new();
    // What a server that hangs up without a word of TLS has sent before is whole all the same.
    let _ = (&mut stream).take(HTTP_BYTES_MAX).read_to_end(&mut bytes).await;
    let text = String::from_utf8_lossy(&bytes);
    let (head, body) = text.split_once("\r\n\r\n")?;
    head.split(' ').nth(1).filter(|status| *status == "200")?;
    Some(body.to_owned())
}

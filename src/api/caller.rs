//! Who calls, and whether they may: every method of every service asks here, and here alone, of `auth::authorize`. What is
//! logged is asked as a whole (`propose`), by the function that apply asks again. (etcd: auth/store.go, AuthInfoFromCtx;
//! v3_server.go, doSerialize and processInternalRaftRequestOnce.)

use std::{
    rc::Rc,
    sync::Arc,
    time::{SystemTime, UNIX_EPOCH},
};

use bytes::Bytes;
use prost::Message;

use super::{
    request::{self, Kind},
    service::Services,
};
use crate::{
    auth::{
        self, Ask, Auth, ROOT, Who,
        jwt::Claims,
        tokens::{self, Tokens},
    },
    error::{self, Status},
    grpc::{Call, Metadata},
    limits,
    observe::trace::{Attributes, Span},
    proto::etcdserverpb::InternalRaftRequest,
    runtime,
    shard::view::View,
};

/// What a call shows of who makes it: a token in its metadata, or the name of its connection's certificate.
#[derive(Clone)]
pub enum Caller {
    Client {
        metadata: Metadata,
        certified: Option<Rc<str>>,
        /// What the call is at, where it is traced.
        span: Option<Span>,
    },
    /// The member itself, which looks after its health: nothing is refused it.
    Member,
}

impl Caller {
    pub fn of(call: Call) -> Self {
        Caller::Client { metadata: call.metadata, certified: call.origin.certified, span: call.span }
    }

    pub(super) fn span(&self) -> Option<&Span> {
        match self {
            Caller::Client { span, .. } => span.as_ref(),
            Caller::Member => None,
        }
    }

    /// What it shows, to be shown to another member.
    pub(super) fn token(&self) -> Option<String> {
        let Caller::Client { metadata, .. } = self else { return None };
        let token = metadata.get("token").or_else(|| metadata.get("authorization"))?;
        String::from_utf8(token.to_vec()).ok()
    }

    /// The same caller, now at a part of its call that etcd gives a span of its own. That ends with the caller.
    #[must_use]
    #[inline]
    pub(super) fn within(self, name: &'static str, describe: impl FnOnce(&mut Attributes)) -> Self {
        match self {
            Caller::Client { metadata, certified, span: Some(span) } => {
                Caller::Client { metadata, certified, span: Some(span.child(name, describe)) }
            }
            caller => caller,
        }
    }
}

/// A user who was known at a revision of users and roles.
struct Identity {
    user: Arc<str>,
    revision: u64,
}

/// Leave to read a view. A read that takes its time asks at its end whether the users and roles are still those of then.
#[derive(Clone, Copy)]
pub(super) struct Permit {
    /// 0: nobody was asked for.
    revision: u64,
}

impl Permit {
    /// # Errors
    /// AUTH_OLD_REVISION where something was changed since.
    pub fn still(self, view: &View) -> Result<(), Status> {
        match self.revision == 0 || self.revision == view.state.auth.revision() {
            true => Ok(()),
            false => Err(error::AUTH_OLD_REVISION),
        }
    }
}

/// A signed token that was proven.
pub(super) struct Proven {
    user: Arc<str>,
    claims: Claims,
}

/// The token that a call shows, if it shows one.
fn shown_token(metadata: &Metadata) -> Option<&[u8]> {
    let shown = metadata.get("token").or_else(|| metadata.get("authorization"))?;
    Some(shown.strip_prefix(b"Bearer ").unwrap_or(shown))
}

impl Services {
    /// Whose call it is, as of these users and roles; None: nobody's.
    ///
    /// # Errors
    /// INVALID_AUTH_TOKEN for a token of nobody.
    fn identify(&self, caller: &Caller, auth: &Auth) -> Result<Option<Identity>, Status> {
        let revision = auth.revision();
        let (metadata, certified) = match caller {
            Caller::Client { metadata, certified, .. } => (metadata, certified),
            Caller::Member => return Ok(Some(Identity { user: ROOT.into(), revision })),
        };
        let Some(token) = shown_token(metadata) else {
            // The certificate of somebody who hands on what others ask tells nothing of those. (etcd: AuthInfoFromTLS.)
            let named = certified.as_ref().filter(|_| metadata.get("grpcgateway-accept").is_none());
            return Ok(named.map(|name| Identity { user: Arc::from(&**name), revision }));
        };
        let text = std::str::from_utf8(token).ok().filter(|text| text.len() <= limits::TOKEN_BYTES_MAX);
        let known = text.and_then(|text| match &self.shard.member.tokens {
            Tokens::Simple(table) => {
                let user = table.user(text, runtime::now_ms())?;
                Some(Identity { user, revision })
            }
            Tokens::Signed(jwt) => {
                let mut proven = self.proven_tokens.borrow_mut();
                if !proven.contains_key(text) {
                    let claims = jwt.claims(text)?;
                    if proven.len() >= limits::PROVEN_TOKENS_MAX {
                        proven.clear();
                    }
                    proven.insert(text.into(), Proven { user: claims.user.as_str().into(), claims });
                }
                let Proven { user, claims } = &proven[text];
                let now_unix = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
                let counts = claims.count_at(now_unix.as_secs_f64());
                counts.then(|| Identity { user: user.clone(), revision: claims.revision })
            }
            Tokens::None => None,
        });
        known.map(Some).ok_or(error::INVALID_AUTH_TOKEN)
    }

    /// Whether a simple token is shown that this member cannot know yet: another one gave it for an entry that this one has not
    /// applied. (etcd: simple_token.go, isValidSimpleToken.)
    pub(super) fn has_token_to_come(&self, metadata: &Metadata) -> bool {
        let Tokens::Simple(_) = &self.shard.member.tokens else { return false };
        let view = self.shard.view();
        if !view.state.auth.is_enabled() {
            return false;
        }
        let text = shown_token(metadata).and_then(|token| std::str::from_utf8(token).ok());
        text.and_then(tokens::made_at).is_some_and(|index| index > view.state.applied().0)
    }

    /// Whether who shows this, beside gRPC, may do what is the operator's: anybody while no users are asked for, then root
    /// alone.
    ///
    /// # Errors
    /// As of `authorize`.
    pub fn operates(&self, metadata: Metadata, certified: Option<Rc<str>>) -> Result<(), Status> {
        let caller = Caller::Client { metadata, certified, span: None };
        self.authorize(&caller, &self.shard.view(), Ask::Admin)
    }

    /// Whether a caller may have what it asks, as of a view.
    ///
    /// # Errors
    /// Those of `auth::authorize`, and INVALID_AUTH_TOKEN.
    #[inline]
    pub(super) fn authorize(&self, caller: &Caller, view: &View, ask: Ask<'_>) -> Result<(), Status> {
        match view.state.auth.is_enabled() {
            true => self.authorize_known(caller, view, ask).map(drop),
            false => Ok(()),
        }
    }

    /// The same for a read of the view.
    ///
    /// # Errors
    /// As above, and AUTH_OLD_REVISION also for who was known at a later revision than the view's.
    #[inline]
    pub(super) fn authorize_read(&self, caller: &Caller, view: &View, ask: Ask<'_>) -> Result<Permit, Status> {
        let revision = match view.state.auth.is_enabled() {
            true => self.authorize_known(caller, view, ask)?,
            false => 0,
        };
        let permit = Permit { revision };
        permit.still(view).map(|()| permit)
    }

    #[cold]
    fn authorize_known(&self, caller: &Caller, view: &View, ask: Ask<'_>) -> Result<u64, Status> {
        let state = &view.state;
        let identity = self.identify(caller, &state.auth)?;
        let who = who(identity.as_ref());
        auth::authorize(&state.auth, &state.leases, who, ask).map(|()| who.revision)
    }

    /// Whether a caller may have what it asks, where this member's view may be behind what the caller has been told: who is
    /// refused is asked for once more when everything is known that was committed.
    pub(super) async fn authorize_settled(&self, caller: &Caller, ask: Ask<'_>) -> Result<(), Status> {
        match self.authorize(caller, &self.shard.view(), ask) {
            Err(status) if is_final(&status) => Err(status),
            Err(_) => {
                let view = self.shard.linearizable().await?;
                self.authorize(caller, &view, ask)
            }
            Ok(()) => Ok(()),
        }
    }

    /// Whether a caller may be told of all leases. Where there are many, that is asked where it may take its time.
    ///
    /// # Errors
    /// Those of `authorize`.
    pub(super) async fn authorize_leases(&self, caller: &Caller, view: &Arc<View>) -> Result<(), Status> {
        if !view.state.auth.is_enabled() || view.state.leases.len() <= limits::INLINE_KEYS_MAX {
            return self.authorize(caller, view, Ask::Leases);
        }
        let identity = self.identify(caller, &view.state.auth)?;
        let view = view.clone();
        runtime::background(move || {
            let state = &view.state;
            auth::authorize(&state.auth, &state.leases, who(identity.as_ref()), Ask::Leases)
        })
        .await
    }

    /// A request to be logged, with the name of who asks for it, if it is going to be carried out. It costs a look while
    /// nobody is asked for a name.
    ///
    /// # Errors
    /// What it would be refused with when it is applied; INVALID_AUTH_TOKEN; REQUEST_TOO_LARGE.
    pub(super) async fn admitted(&self, caller: &Caller, kind: Kind, body: &[u8]) -> Result<(u64, Bytes), Refused> {
        if !self.shard.published.look(|view| view.state.auth.is_enabled()) {
            return Ok(self.signed(kind, body, Who::NOBODY));
        }
        // A password's proof is all that this one needs (etcd: processInternalRaftRequestOnce).
        if kind == Kind::Authenticate {
            return Ok(self.signed(kind, body, Who::NOBODY));
        }
        match self.admit(caller, &self.shard.view(), kind, body) {
            Err(Refused::Applied(status)) if !is_final(&status) => {
                let view = self.shard.linearizable().await.map_err(Refused::Unheard)?;
                self.admit(caller, &view, kind, body)
            }
            admitted => admitted,
        }
    }

    fn admit(&self, caller: &Caller, view: &View, kind: Kind, body: &[u8]) -> Result<(u64, Bytes), Refused> {
        let identity = self.identify(caller, &view.state.auth).map_err(Refused::Unheard)?;
        let who = who(identity.as_ref());
        let (id, data) = self.signed(kind, body, who);
        if data.len() > self.shard.member.config.max_request_bytes {
            return Err(Refused::Unheard(error::REQUEST_TOO_LARGE));
        }
        let request =
            InternalRaftRequest::decode(data.clone()).map_err(|cause| Refused::Unheard(error::undecodable(&cause)))?;
        view.state.admit(&request, who).map(|()| (id, data)).map_err(Refused::Applied)
    }

    fn signed(&self, kind: Kind, body: &[u8], who: Who<'_>) -> (u64, Bytes) {
        let id = self.shard.member.next_id();
        (id, request::signed(kind, body, id, who))
    }
}

/// Why a request is not logged.
pub(super) enum Refused {
    /// As applying it would have.
    Applied(Status),
    /// Before that would have been asked.
    Unheard(Status),
}

/// What no newer view would change.
fn is_final(status: &Status) -> bool {
    [error::USER_EMPTY, error::INVALID_AUTH_TOKEN].contains(status)
}

fn who(identity: Option<&Identity>) -> Who<'_> {
    identity.map_or(Who::NOBODY, |identity| Who { user: &identity.user, revision: identity.revision })
}

//! Locks and elections.

use urd::proto::{v3electionpb::*, v3lockpb::*};

use crate::{Client, Error, Receiver, Streaming, Unary};

macro_rules! methods {
    ($kind:ident: $($path:literal: $request:ident -> $answer:ident;)*) => {
        $(impl $kind for $request {
            type Answer = $answer;
            const PATH: &'static str = $path;
        })*
    };
}

methods! { Unary:
    "/v3lockpb.Lock/Lock": LockRequest -> LockResponse;
    "/v3lockpb.Lock/Unlock": UnlockRequest -> UnlockResponse;
    "/v3electionpb.Election/Campaign": CampaignRequest -> CampaignResponse;
    "/v3electionpb.Election/Proclaim": ProclaimRequest -> ProclaimResponse;
    "/v3electionpb.Election/Leader": LeaderRequest -> LeaderResponse;
    "/v3electionpb.Election/Resign": ResignRequest -> ResignResponse;
}

methods! { Streaming:
    "/v3electionpb.Election/Observe": LeaderRequest -> LeaderResponse;
}

impl Client {
    /// Who leads from now on, and what each proclaims.
    pub async fn observe(&self, name: &str) -> Result<Receiver<LeaderResponse>, Error> {
        let (mut sender, receiver) = self.stream::<LeaderRequest>().await?;
        sender.send(&LeaderRequest { name: name.to_owned().into() })?;
        sender.finish()?;
        Ok(receiver)
    }
}

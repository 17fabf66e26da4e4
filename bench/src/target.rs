//! Whom the load goes to: endpoints, TLS and a user; anything that speaks etcd's API will do. Connections are handed out
//! over the endpoints in turn. A password is never written into results.

use std::{
    cell::{Cell, RefCell},
    path::PathBuf,
};

use clap::Args;
use serde::{Deserialize, Serialize};
use urd_client::{Client, Options, Tls, etcdserverpb::AuthenticateRequest};

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, Args)]
#[serde(default, deny_unknown_fields)]
pub struct Target {
    /// host:port, several separated by commas; `http://` and `https://` before them are understood.
    #[arg(long, alias = "endpoint", value_delimiter = ',', default_value = "127.0.0.1:2379")]
    pub endpoints: Vec<String>,
    /// The authority that the server's certificate is from. Turns TLS on.
    #[arg(long)]
    pub cacert: Option<PathBuf>,
    /// The driver's own certificate, for a server that asks for one.
    #[arg(long, requires = "key")]
    pub cert: Option<PathBuf>,
    /// The key of `--cert`.
    #[arg(long, requires = "cert")]
    pub key: Option<PathBuf>,
    /// `name:password`.
    #[arg(long)]
    #[serde(skip)]
    pub user: Option<String>,
}

/// Connects as a target says.
pub struct Dialer {
    target: Target,
    tls: Option<Tls>,
    /// How many connections were handed out.
    next: Cell<usize>,
    token: RefCell<Option<String>>,
}

impl Dialer {
    /// # Errors
    /// If a certificate cannot be read, or `https` is asked for and no authority is given.
    pub fn new(target: Target) -> Result<Self, String> {
        let tls = match &target.cacert {
            Some(authority) => Some(Tls::new(Some(authority), target.cert.as_deref().zip(target.key.as_deref()))?),
            None if target.endpoints.iter().any(|endpoint| endpoint.starts_with("https://")) => {
                return Err("an https endpoint needs --cacert".to_owned());
            }
            None => None,
        };
        Ok(Dialer { target, tls, next: Cell::new(0), token: RefCell::new(None) })
    }

    /// One more for the same target.
    pub fn another(&self) -> Result<Self, String> {
        Dialer::new(self.target.clone())
    }

    pub fn endpoints(&self) -> &[String] {
        &self.target.endpoints
    }

    /// A connection to the next endpoint, authenticated if there is a user.
    pub async fn connect(&self) -> Result<Client, String> {
        self.connect_with(Options::default()).await
    }

    pub async fn connect_with(&self, options: Options) -> Result<Client, String> {
        let endpoints = &self.target.endpoints;
        let endpoint = &endpoints[self.next.replace(self.next.get() + 1) % endpoints.len()];
        let address =
            endpoint.split_once("://").map_or(endpoint.as_str(), |(_, address)| address).trim_end_matches('/');
        let failed = |cause: &dyn std::fmt::Display| format!("{endpoint}: {cause}");
        let client = match &self.tls {
            None => Client::connect_with(address, options).await.map_err(|cause| failed(&cause))?,
            Some(tls) => tls.connect(address, options).await.map_err(|cause| failed(&cause))?,
        };
        let Some(user) = &self.target.user else { return Ok(client) };
        if self.token.borrow().is_none() {
            let (name, password) = user.split_once(':').ok_or("--user is name:password")?;
            let request = AuthenticateRequest { name: name.to_owned(), password: password.to_owned() };
            let token = client.call(&request).await.map_err(|cause| failed(&cause))?.token;
            *self.token.borrow_mut() = Some(token);
        }
        Ok(client.with_metadata("token", self.token.borrow().as_deref().unwrap_or_default()))
    }
}

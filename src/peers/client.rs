//! Requests to other members over HTTP/1.1, encrypted where their URLs say so. A connection that has been answered on is kept for
//! the next request to the same place. (etcd: rafthttp/util.go; client/pkg/transport.)

use std::{
    cell::{Cell, OnceCell, RefCell},
    collections::HashMap,
    error::Error,
    net::{IpAddr, SocketAddr},
    pin::Pin,
    rc::Rc,
    time::Duration,
};

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Method, Request, Response, StatusCode, Uri, header};
use http_body_util::{BodyExt as _, Empty, Full};
use hyper::{
    body::{Body, Incoming},
    client::conn::http1::{self, SendRequest},
};
use tokio::io::{AsyncRead, AsyncWrite};

use super::body::{Fault, Reader};
use crate::{
    config::{
        tls::{Files, Tls},
        url::{self, Url},
    },
    limits,
    net::{ForHyper, tls::Caller},
    runtime::{
        self, names,
        socket::{Address, Socket, Traffic},
    },
};

/// What is sent with a request.
pub type Sent = Pin<Box<dyn Body<Data = Bytes, Error = Box<dyn Error + Send + Sync>>>>;

/// Nothing.
pub fn nothing() -> Sent {
    Box::pin(Empty::new().map_err(|never| match never {}))
}

/// Bytes that are all there.
pub fn whole(bytes: impl Into<Bytes>) -> Sent {
    Box::pin(Full::new(bytes.into()).map_err(|never| match never {}))
}

/// An answer that has come whole.
#[derive(Debug)]
pub struct Answer {
    pub status: StatusCode,
    pub headers: HeaderMap,
    pub body: Bytes,
}

/// Connections of one executor to other members.
pub struct Client {
    tls: (Tls, Files),
    /// Made when the first encrypted URL is called.
    caller: OnceCell<Result<Caller, String>>,
    /// How long it may take until a connection stands.
    patience: Duration,
    traffic: Rc<Traffic>,
    /// By scheme and place.
    idle: RefCell<HashMap<String, Vec<SendRequest<Sent>>>>,
}

trait Stream: AsyncRead + AsyncWrite + Unpin {}
impl<S: AsyncRead + AsyncWrite + Unpin> Stream for S {}

impl Client {
    /// `patience`: how long it may take until a connection stands.
    pub fn new(tls: Tls, files: Files, patience: Duration) -> Self {
        Client {
            tls: (tls, files),
            caller: OnceCell::new(),
            patience,
            traffic: Rc::default(),
            idle: RefCell::default(),
        }
    }

    /// Sends a request to a path of a member's URL, and gives the answer's head; its body is read by the caller, who has this
    /// client's connection until then.
    ///
    /// # Errors
    /// Why there is no answer, for the log.
    pub async fn ask(
        &self,
        url: &str,
        path: &str,
        method: Method,
        headers: &[(&'static str, &str)],
        body: Sent,
    ) -> Result<(Response<Incoming>, Kept<'_>), String> {
        let url = url::parse(url)?;
        let mut request = Request::new(body);
        *request.method_mut() = method;
        *request.uri_mut() = path.parse::<Uri>().map_err(|cause| format!("{path}: {cause}"))?;
        let value = |text: &str| HeaderValue::from_str(text).map_err(|cause| format!("{text:?}: {cause}"));
        request.headers_mut().insert(header::HOST, value(&url.authority)?);
        for (name, text) in headers {
            request.headers_mut().insert(*name, value(text)?);
        }
        let place = url.to_string();
        loop {
            // One that the other side has closed in the meantime says so before anything is sent.
            let kept = self.idle.borrow_mut().get_mut(&place).and_then(Vec::pop);
            let is_new = kept.is_none();
            let mut sender = match kept {
                Some(sender) => sender,
                None => self.connect(&url).await?,
            };
            match sender.try_send_request(request).await {
                Ok(response) => {
                    let kept = Kept { client: self, place, sender: Cell::new(Some(sender)) };
                    return Ok((response, kept));
                }
                Err(mut failed) => match failed.take_message() {
                    Some(unsent) if !is_new => request = unsent,
                    _ => return Err(failed.into_error().to_string()),
                },
            }
        }
    }

    /// Asks for what is answered at once and whole, within `patience` for all of it.
    ///
    /// # Errors
    /// As `ask`.
    pub async fn exchange(
        &self,
        url: &str,
        path: &str,
        method: Method,
        headers: &[(&'static str, &str)],
        body: Bytes,
        patience: Duration,
    ) -> Result<Answer, String> {
        let body = match method {
            Method::GET if body.is_empty() => nothing(),
            _ => whole(body),
        };
        let exchanged = runtime::timeout(patience, async {
            let (response, kept) = self.ask(url, path, method, headers, body).await?;
            let (head, body) = response.into_parts();
            let body = Reader::new(body).whole(limits::PEER_ANSWER_BYTES_MAX).await.map_err(Fault::text)?;
            kept.keep();
            Ok(Answer { status: head.status, headers: head.headers, body })
        });
        exchanged.await.unwrap_or_else(|| Err("context deadline exceeded".into()))
    }

    /// GET.
    ///
    /// # Errors
    /// As `ask`.
    pub async fn get(&self, url: &str, path: &str, patience: Duration) -> Result<Answer, String> {
        self.exchange(url, path, Method::GET, &[], Bytes::new(), patience).await
    }

    async fn connect(&self, url: &Url) -> Result<SendRequest<Sent>, String> {
        let stream = match runtime::timeout(self.patience, self.dial(url)).await {
            Some(dialed) => dialed?,
            None => return Err(format!("dial tcp {}: i/o timeout", url.authority)),
        };
        let mut builder = http1::Builder::new();
        builder.title_case_headers(true);
        let (sender, connection) = builder.handshake(ForHyper(stream)).await.map_err(|cause| cause.to_string())?;
        runtime::spawn(async move {
            // What ends it is told to who waits for an answer.
            let _ = connection.await;
        });
        Ok(sender)
    }

    async fn dial(&self, url: &Url) -> Result<Box<dyn Stream>, String> {
        let socket = self.open(url).await?;
        if !url.is_tls() {
            return Ok(Box::new(socket));
        }
        let (tls, files) = &self.tls;
        let caller = self.caller.get_or_init(|| Caller::new(tls, files)).as_ref().map_err(Clone::clone)?;
        let host = match &tls.peer_name {
            Some(name) => name,
            None if url.is_socket_file() => "localhost",
            None => url.host_and_port().0,
        };
        Ok(Box::new(caller.secure(socket, host).await?))
    }

    async fn open(&self, url: &Url) -> Result<Socket, String> {
        let open = |address: Address| async {
            let place = address.to_string();
            let opened = Socket::connect(address, self.traffic.clone()).await;
            opened.map_err(|cause| format!("dial tcp {place}: connect: {}", crate::error::in_go_words(&cause)))
        };
        if url.is_socket_file() {
            return open(Address::Unix(url.authority.clone().into())).await;
        }
        let (host, port) = url.host_and_port();
        let port: u16 = port.parse().map_err(|_| format!("{url}: it has no port"))?;
        let addresses = match host.parse::<IpAddr>() {
            Ok(address) => vec![address],
            Err(_) => names::addresses_of(host.to_owned())
                .await
                .map_err(|cause| format!("dial tcp: lookup {host}: {cause}"))?,
        };
        let mut failed = format!("dial tcp: lookup {host}: no such host");
        for address in addresses {
            match open(Address::Inet(SocketAddr::new(address, port))).await {
                Ok(socket) => return Ok(socket),
                Err(cause) => failed = cause,
            }
        }
        Err(failed)
    }
}

/// A connection on which an answer is coming. Once the answer has been read it may be kept; otherwise it is closed.
pub struct Kept<'a> {
    client: &'a Client,
    place: String,
    sender: Cell<Option<SendRequest<Sent>>>,
}

impl Kept<'_> {
    pub fn keep(self) {
        let Some(sender) = self.sender.take().filter(|sender| !sender.is_closed()) else { return };
        let mut idle = self.client.idle.borrow_mut();
        let those = idle.entry(self.place.clone()).or_default();
        those.retain(|kept| !kept.is_closed());
        if those.len() < limits::PEER_CONNECTIONS_KEPT {
            those.push(sender);
        }
    }
}

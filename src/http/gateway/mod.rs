//! The API in JSON under `/v3/`: a request is one gRPC call, made where gRPC calls are made, with the same checks, counters,
//! deadlines and errors; a streaming call's answer is a line for each message. Statuses, headers and bodies are those of
//! grpc-gateway as etcd sets it up. (etcd: embed/serve.go, registerGateway; grpc-gateway v2: runtime/mux.go, handler.go,
//! errors.go.)

mod answering;
mod json_body;
mod metadata;
mod paths;
pub mod transcode;
pub(super) mod websocket;

use std::{cell::Cell, future::poll_fn, rc::Rc, time::Duration};

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, Request, Response, StatusCode, Version, header};
use hyper::ext::ReasonPhrase;

pub(super) use self::json_body::Chunks;
use self::{
    answering::{Answering, Form},
    json_body::{Bounds, JsonBody, message_in, whole},
    transcode::{Method, Schema},
};
use super::{
    answer::{self, Answer},
    body::Body,
};
use crate::{
    error::{self, Code, Status},
    grpc::{Call, Route, local::Local},
    limits,
    runtime::{self, socket::Address},
};

const JSON: HeaderValue = HeaderValue::from_static("application/json");
const GRPC: HeaderValue = HeaderValue::from_static("application/grpc");
/// What gRPC tells with an answer, and with an error alone.
const METADATA_CONTENT_TYPE: HeaderName = HeaderName::from_static("grpc-metadata-content-type");
const TRAILER_CONTENT_TYPE: HeaderName = HeaderName::from_static("grpc-trailer-content-type");

/// The way from HTTP to the services of a shard.
pub struct Gateway {
    local: Local,
    relayed: Relayed,
}

/// What an answer tells of the answer of gRPC behind it. etcd's gateway calls over a connection to its own server, and hands
/// on the headers that it gets there: within TLS they come from another of grpc-go's servers, which has more of them, and
/// sends them with errors as well.
#[derive(Clone, Default)]
pub struct Relayed {
    within_tls: bool,
    headers: HeaderMap,
}

impl Relayed {
    /// `within_tls`: that connection is encrypted; `any_origin`: pages from anywhere are served.
    pub fn new(within_tls: bool, any_origin: bool) -> Self {
        let mut headers = HeaderMap::from_iter([(METADATA_CONTENT_TYPE, GRPC)]);
        if within_tls {
            for name in ["Grpc-Status", "Grpc-Message", "Grpc-Status-Details-Bin"] {
                headers.append("grpc-metadata-trailer", HeaderValue::from_static(name));
            }
        }
        if within_tls && any_origin {
            let mut allowed = answer::empty();
            answer::allow_origin(&mut allowed, "*");
            for (name, value) in allowed.headers() {
                let name = HeaderName::try_from(format!("grpc-metadata-{name}")).expect("a name with a prefix is one");
                headers.append(name, value.clone());
            }
        }
        Relayed { within_tls, headers }
    }

    fn put(&self, answer: &mut Answer) {
        answer.headers_mut().extend(self.headers.clone());
    }

    fn put_to_error(&self, answer: &mut Answer) {
        if self.within_tls {
            self.put(answer);
        }
    }

    /// What gRPC has told in its trailers it has told before then.
    fn of_the_call(&self, takes_trailers: bool) -> Told {
        match takes_trailers {
            true if self.within_tls => Told::Chunked,
            true => Told::WithTrailer,
            false => Told::Whole,
        }
    }
}

/// A method to be called, and what is said with the call.
struct Order {
    method: Method,
    route: Route,
    call: Call,
}

impl Order {
    /// Its deadline has passed before it is made.
    fn is_late(&self) -> bool {
        self.call.deadline.is_some_and(|deadline| deadline <= runtime::now())
    }
}

impl Gateway {
    pub fn new(local: Local, relayed: Relayed) -> Self {
        Gateway { local, relayed }
    }

    /// Answers a request for a path under `/v3/`. One that asks for a websocket leaves its session behind.
    pub(super) async fn answer<B: Chunks + 'static>(
        self: &Rc<Self>,
        path: &str,
        request: Request<B>,
        local: Option<&Rc<Address>>,
        session: &Cell<Option<websocket::Session>>,
    ) -> Answer {
        if websocket::is_asked_for(request.headers()) {
            return websocket::accept(self, path, &request, local, session);
        }
        let (head, mut body) = request.into_parts();
        let verb = Verb::of(&head.method, &head.headers);
        let order = match self.order(path, verb != Verb::Other, &head.headers, local) {
            Ok(order) => order,
            Err(status) => return refusal(&status, Told::Whole),
        };
        let takes_trailers = takes_trailers(&head.headers);
        let whole_max = match head.version {
            Version::HTTP_2 => limits::HTTP2_WHOLE_BYTES,
            _ => limits::GATEWAY_WHOLE_BYTES,
        };
        if order.method.takes_many {
            return match order.is_late() {
                true => refusal(&error::DEADLINE_EXCEEDED, Told::before_the_call(takes_trailers)),
                false => self.converse(order, body).await,
            };
        }
        let json = match verb {
            Verb::PostOfForm => Ok(Bytes::new()),
            _ => {
                let all = whole(&mut body, self.bounds().json_bytes_max, &self.local.settings.unfinished);
                let patience = Duration::from_secs(limits::GATEWAY_BODY_SECONDS_MAX);
                match runtime::timeout(patience, all).await {
                    Some(json) => json,
                    None => return too_slow(),
                }
            }
        };
        let message = match json {
            Ok(json) => self.message_of(json, order.method).await,
            Err(status) => Err(status),
        };
        match message {
            Ok(_) if order.is_late() => refusal(&error::DEADLINE_EXCEEDED, Told::before_the_call(takes_trailers)),
            Ok(message) if order.method.gives_many => lines(self.begin(order, message), &self.relayed).await,
            Ok(message) => one(self.begin(order, message), &self.relayed, takes_trailers, whole_max).await,
            Err(status) => {
                let mut refusal = refusal(&status, Told::before_the_call(takes_trailers));
                // Too large is what gRPC says of it.
                if status.code == Code::ResourceExhausted {
                    self.relayed.put_to_error(&mut refusal);
                }
                refusal
            }
        }
    }

    /// What a request orders by its head.
    fn order(
        &self,
        path: &str,
        is_post: bool,
        headers: &HeaderMap,
        local: Option<&Rc<Address>>,
    ) -> Result<Order, Status> {
        let known = paths::find(path).ok_or(Status::fixed(Code::NotFound, "Not Found"))?;
        if !is_post {
            return Err(Status::fixed(Code::Unimplemented, "Method Not Allowed"));
        }
        let call = metadata::call_of(headers, local.cloned(), runtime::now())?;
        let rpc = known.rpc();
        let method = Schema::method(&rpc).expect("every path's method is in the schema");
        let route = self.local.handler.route(&rpc).ok_or_else(|| error::method_unimplemented(known.method))?;
        Ok(Order { method, route, call })
    }

    fn bounds(&self) -> Bounds {
        Bounds::of(self.local.settings.max_message_bytes())
    }

    async fn message_of(&self, json: Bytes, method: Method) -> Result<Bytes, Status> {
        let bounds = self.bounds();
        if json.len() <= limits::GATEWAY_INLINE_BYTES {
            return message_in(&json, method, bounds);
        }
        runtime::background(move || message_in(&json, method, bounds)).await
    }

    /// Makes a call with one message.
    fn begin(&self, order: Order, message: Bytes) -> Answering {
        let Order { method, route, call } = order;
        match method.gives_many {
            true => Answering::new(self.local.stream_of(route, call, message), method, Form::Lines, None),
            false => Answering::new(self.local.unary(route, call, message), method, Form::One, None),
        }
    }

    /// Makes a call whose messages go on coming.
    fn begin_conversation(&self, order: Order, chunks: impl Chunks + 'static) -> Answering {
        let Order { method, route, call } = order;
        let requests = JsonBody::new(chunks, method, self.bounds());
        let call = self.local.stream(route, call, Box::new(requests.clone()));
        Answering::new(call, method, Form::Lines, Some(requests))
    }

    async fn converse(&self, order: Order, body: impl Chunks + 'static) -> Answer {
        lines(self.begin_conversation(order, body), &self.relayed).await
    }
}

/// What a request is by its method, as the gateway takes it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Verb {
    Post,
    /// A form of a page that was to be read as one, and of which nothing is left for the gateway.
    PostOfForm,
    Other,
}

impl Verb {
    fn of(method: &http::Method, headers: &HeaderMap) -> Self {
        let is_form = headers
            .get(header::CONTENT_TYPE)
            .is_some_and(|value| value.as_bytes() == b"application/x-www-form-urlencoded");
        // A page may say that it means another method.
        let meant = headers.get("x-http-method-override").filter(|meant| !meant.is_empty());
        match meant {
            _ if method != http::Method::POST => Verb::Other,
            Some(meant) if is_form && meant.as_bytes().eq_ignore_ascii_case(b"POST") => Verb::PostOfForm,
            Some(_) if is_form => Verb::Other,
            _ => Verb::Post,
        }
    }
}

fn takes_trailers(headers: &HeaderMap) -> bool {
    let value = headers.get(header::TE).and_then(|value| value.to_str().ok());
    value.is_some_and(|value| value.to_ascii_lowercase().contains("trailers"))
}

/// The answer of one message: with its length where it is short, for then Go knows it.
async fn one(mut answering: Answering, relayed: &Relayed, takes_trailers: bool, whole_max: usize) -> Answer {
    let body = match poll_fn(|context| answering.poll_more(context, whole_max + 1)).await {
        Ok(true) => {
            let json = std::mem::take(answering.out());
            match takes_trailers || json.len() > whole_max {
                true => Body::chunked(json, None),
                false => Body::whole(json),
            }
        }
        Ok(false) => Body::made(answering),
        Err(status) if !answering.out().is_empty() => Body::broken(status),
        Err(status) => {
            let mut refusal = refusal(&status, relayed.of_the_call(takes_trailers));
            relayed.put_to_error(&mut refusal);
            return refusal;
        }
    };
    answer_of(body, relayed)
}

/// The answer of as many messages as there will be, once there is one.
async fn lines(mut answering: Answering, relayed: &Relayed) -> Answer {
    match poll_fn(|context| answering.poll_more(context, 1)).await {
        Ok(true) if answering.out().is_empty() => {
            let mut answer = Response::new(Body::chunked(Bytes::new(), None));
            relayed.put_to_error(&mut answer);
            answer
        }
        Ok(_) => answer_of(Body::made(answering), relayed),
        Err(status) => {
            let mut answer = Response::new(Body::chunked(Form::Lines.error(&status), None));
            answer.headers_mut().insert(header::CONTENT_TYPE, JSON);
            set_status(&mut answer, status.code);
            relayed.put_to_error(&mut answer);
            answer
        }
    }
}

fn answer_of(body: Body, relayed: &Relayed) -> Answer {
    let mut answer = Response::new(body);
    answer.headers_mut().insert(header::CONTENT_TYPE, JSON);
    relayed.put(&mut answer);
    answer
}

/// How a refusal is told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Told {
    Whole,
    Chunked,
    /// With what gRPC has told in its trailers, for who takes trailers.
    WithTrailer,
}

impl Told {
    /// Of what has not come to the call: there are no trailers of gRPC then.
    fn before_the_call(takes_trailers: bool) -> Self {
        if takes_trailers { Told::Chunked } else { Told::Whole }
    }
}

fn refusal(status: &Status, told: Told) -> Answer {
    let json = Form::One.error(status);
    let mut answer = Response::new(match told {
        Told::Whole => Body::whole(json),
        Told::Chunked => Body::chunked(json, None),
        Told::WithTrailer => {
            let trailers = HeaderMap::from_iter([(TRAILER_CONTENT_TYPE, GRPC)]);
            Body::chunked(json, Some(trailers))
        }
    });
    let headers = answer.headers_mut();
    headers.insert(header::CONTENT_TYPE, JSON);
    if told == Told::WithTrailer {
        headers.insert(header::TRAILER, HeaderValue::from_static("Grpc-Trailer-Content-Type"));
    }
    if status.code == Code::Unauthenticated
        && let Ok(message) = HeaderValue::from_str(&status.message)
    {
        headers.insert(header::WWW_AUTHENTICATE, message);
    }
    set_status(&mut answer, status.code);
    answer
}

fn too_slow() -> Answer {
    let mut answer = answer::error(StatusCode::REQUEST_TIMEOUT, "408 Request Timeout");
    answer.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
    answer
}

/// (grpc-gateway: runtime/errors.go, HTTPStatusFromCode.)
pub(super) fn set_status(answer: &mut Answer, code: Code) {
    *answer.status_mut() = match code {
        Code::Ok => StatusCode::OK,
        Code::InvalidArgument | Code::FailedPrecondition | Code::OutOfRange => StatusCode::BAD_REQUEST,
        Code::Unauthenticated => StatusCode::UNAUTHORIZED,
        Code::PermissionDenied => StatusCode::FORBIDDEN,
        Code::NotFound => StatusCode::NOT_FOUND,
        Code::AlreadyExists | Code::Aborted => StatusCode::CONFLICT,
        Code::ResourceExhausted => StatusCode::TOO_MANY_REQUESTS,
        Code::Canceled => {
            // Go has no words for it.
            answer.extensions_mut().insert(ReasonPhrase::from_static(b"status code 499"));
            StatusCode::from_u16(499).expect("a number of three digits")
        }
        Code::Unimplemented => StatusCode::NOT_IMPLEMENTED,
        Code::Unavailable => StatusCode::SERVICE_UNAVAILABLE,
        Code::DeadlineExceeded => StatusCode::GATEWAY_TIMEOUT,
        Code::Unknown | Code::Internal | Code::DataLoss => StatusCode::INTERNAL_SERVER_ERROR,
    };
}

#[cfg(test)]
mod tests;

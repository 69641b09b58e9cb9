//! HTTP on a loopback port for a fake service: takes a call, lets the plan of faults at it, closes a connection where that
//! says so.
//!
//! Owns: the socket, the life of the server, the two ways of losing a reply, what all fakes have in common. Does not own: what a
//! service answers (dynamo, s3, …).

use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};

use axum::Router;
use axum::body::{Body, to_bytes};
use axum::extract::connect_info::Connected;
use axum::extract::{ConnectInfo, Request, State};
use axum::http::{HeaderMap, Method};
use axum::response::Response;
use axum::serve::{IncomingStream, Listener};
use bytes::Bytes;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;

use crate::faults::{Fault, FaultPlan};

const BODY_MAX: usize = 256 << 20;

/// A request, whole.
pub struct Call {
    pub(crate) method: Method,
    pub(crate) path: String,
    pub(crate) query: String,
    pub(crate) headers: HeaderMap,
    pub(crate) body: Bytes,
}

impl Call {
    /// A header as text, if it is there and is text.
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).and_then(|value| value.to_str().ok())
    }
}

/// What a fake service is.
pub trait Service: Send + Sync + 'static {
    /// Name of the operation, as AWS has it.
    fn operation(&self, call: &Call) -> String;
    /// Does it.
    fn answer(&self, operation: &str, call: &Call) -> Response;
    /// An error with this status and code.
    fn refusal(&self, status: u16, code: &str) -> Response;
    /// How the service says "slower".
    fn throttled(&self) -> Response;
}

/// A running server; it ends when this is dropped.
pub(crate) struct Server {
    address: SocketAddr,
    task: JoinHandle<()>,
}

impl Server {
    /// Serves on a free loopback port.
    pub(crate) async fn start(service: Arc<dyn Service>, faults: Arc<FaultPlan>) -> io::Result<Self> {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await?;
        let address = listener.local_addr()?;
        let app = Router::new().fallback(handle).with_state(Hub { service, faults });
        let task = tokio::spawn(async move {
            // It ends only by being dropped: accept errors are waited out below.
            if let Err(error) = axum::serve(Door(listener), app.into_make_service_with_connect_info::<Cut>()).await {
                drop(error);
            }
        });
        Ok(Self { address, task })
    }

    pub(crate) fn url(&self) -> String {
        format!("http://{}", self.address)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// What a fake holds, under one mutex: every call is atomic.
#[derive(Default)]
pub struct Locked<S>(Mutex<S>);

impl<S> Locked<S> {
    pub(crate) fn lock(&self) -> MutexGuard<'_, S> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A service on a loopback port. It ends when dropped.
pub struct Fake<S> {
    server: Server,
    held: Arc<Locked<S>>,
    faults: Arc<FaultPlan>,
}

impl<S: Default> Fake<S>
where
    Locked<S>: Service,
{
    /// Starts one that holds nothing.
    pub async fn start() -> io::Result<Self> {
        let (held, faults) = (Arc::new(Locked::default()), Arc::new(FaultPlan::default()));
        let server = Server::start(held.clone(), faults.clone()).await?;
        Ok(Self { server, held, faults })
    }

    /// Where it listens.
    pub fn url(&self) -> String {
        self.server.url()
    }

    /// What shall go wrong. Operations are named as the service names them: `write` of line protocol, `post` of a webhook.
    pub fn faults(&self) -> &FaultPlan {
        &self.faults
    }

    pub(crate) fn lock(&self) -> MutexGuard<'_, S> {
        self.held.lock()
    }
}

#[derive(Clone)]
struct Hub {
    service: Arc<dyn Service>,
    faults: Arc<FaultPlan>,
}

async fn handle(State(hub): State<Hub>, ConnectInfo(cut): ConnectInfo<Cut>, request: Request) -> Response {
    let (parts, body) = request.into_parts();
    let Ok(body) = to_bytes(body, BODY_MAX).await else { return hub.service.refusal(400, "IncompleteBody") };
    let call = Call {
        method: parts.method,
        path: parts.uri.path().to_owned(),
        query: parts.uri.query().unwrap_or_default().to_owned(),
        headers: parts.headers,
        body,
    };
    let operation = hub.service.operation(&call);
    match hub.faults.meet(&operation) {
        None => hub.service.answer(&operation, &call),
        Some(Fault::DropRequest) => cut.now(),
        Some(Fault::DropResponse) => {
            drop(hub.service.answer(&operation, &call));
            cut.now()
        }
        Some(Fault::Status(status, code)) => hub.service.refusal(status, code),
        Some(Fault::Delay(by)) => {
            let answer = hub.service.answer(&operation, &call);
            tokio::time::sleep(by).await;
            answer
        }
        Some(Fault::Hold) => {
            let answer = hub.service.answer(&operation, &call);
            hub.faults.held().await;
            answer
        }
        Some(Fault::Throttle) => hub.service.throttled(),
        Some(Fault::BodyError(code)) => {
            let mut answer = hub.service.refusal(500, code);
            *answer.status_mut() = axum::http::StatusCode::OK;
            answer
        }
    }
}

/// The switch that ends one connection.
#[derive(Clone, Default)]
struct Cut(Arc<AtomicBool>);

impl Cut {
    /// Whatever is answered from now on does not get out.
    fn now(&self) -> Response {
        self.0.store(true, Ordering::SeqCst);
        Response::new(Body::empty())
    }
}

impl Connected<IncomingStream<'_, Door>> for Cut {
    fn connect_info(stream: IncomingStream<'_, Door>) -> Self {
        stream.io().cut.clone()
    }
}

struct Door(TcpListener);

impl Listener for Door {
    type Io = Line;
    type Addr = SocketAddr;

    async fn accept(&mut self) -> (Line, SocketAddr) {
        let (stream, address) = Listener::accept(&mut self.0).await;
        (Line { stream, cut: Cut::default() }, address)
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        self.0.local_addr()
    }
}

/// A connection that can be cut.
struct Line {
    stream: TcpStream,
    cut: Cut,
}

impl Line {
    fn whole(&self) -> io::Result<()> {
        match self.cut.0.load(Ordering::SeqCst) {
            true => Err(io::ErrorKind::ConnectionReset.into()),
            false => Ok(()),
        }
    }
}

impl AsyncRead for Line {
    fn poll_read(mut self: Pin<&mut Self>, context: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(context, buffer)
    }
}

impl AsyncWrite for Line {
    fn poll_write(mut self: Pin<&mut Self>, context: &mut Context<'_>, data: &[u8]) -> Poll<io::Result<usize>> {
        self.whole()?;
        Pin::new(&mut self.stream).poll_write(context, data)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.whole()?;
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}

//! A test API server: lists and watches as the real one has them, and faults on command.
//!
//! One global revision and one log stand behind everything, so that an event can be neither lost nor reordered between a
//! list and its watch. What it does was compared with a kube-apiserver 1.36. It has no access control, no TLS, no
//! protobuf and no schemas of custom resources; every kind of patch is a merge patch.
//!
//! The server runs on a thread of its own and answers on every listener it is given, so that it can be reached from
//! inside network namespaces.

mod discovery;
mod http;
mod list;
mod merge;
mod query;
mod resource;
mod selector;
mod status;
mod store;
mod watch;

use alloc::sync::Arc;
use core::net::SocketAddr;
use core::time::Duration;
use std::io;
use std::net::TcpListener;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::Instant;

use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use serde_json::{Value, json};
use tokio::runtime;
use tokio::sync::{mpsc, watch as channel};

use resource::Resource;
use status::Status;
use store::{Part, Store};

/// A running server. Dropping it ends it.
#[derive(Debug)]
pub struct ApiServer {
    shared: Arc<Shared>,
    listeners: Option<mpsc::UnboundedSender<TcpListener>>,
    address: SocketAddr,
    thread: Option<JoinHandle<()>>,
}

/// What the server is like.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
#[expect(clippy::exhaustive_structs, reason = "tests write options as literals")]
pub struct Options {
    /// How far apart bookmarks are; about a minute on a real server.
    pub bookmark_interval: Duration,
    /// What becomes of a watch that asks for the present state first.
    pub streaming_lists: StreamingLists,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            bookmark_interval: Duration::from_secs(60),
            streaming_lists: StreamingLists::Supported,
        }
    }
}

/// Whether lists can be had as watches.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
#[expect(clippy::exhaustive_enums, reason = "the three ways servers have")]
pub enum StreamingLists {
    /// The feature gate is off: 422.
    Forbidden,
    /// The gate is on.
    Supported,
    /// The gate is on, but etcd is too old: 200, and an error 500 in the stream.
    Unsupported,
}

/// What the server does wrong until told otherwise.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
#[expect(clippy::exhaustive_enums, reason = "a new fault must reach every match")]
pub enum Fault {
    /// A watch breaks off in the middle of its next event.
    Cut,
    /// Bodies arrive byte by byte, with this pause.
    Drip(Duration),
    /// A watch is told a moment after it was opened, inside its stream, that its version is too old.
    Expired,
    /// Every request is forbidden, as it is before access rules are loaded.
    Forbidden,
    /// Requests are accepted and never answered.
    Hang,
    /// Watches are opened, say nothing and never end, as over a connection that died without a word.
    Mute,
    /// Connections are closed as soon as they are made.
    Refuse,
    /// Watches that are cut off hear of an internal error inside the stream first.
    StreamError,
}

/// A request the server received.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Received {
    /// When.
    pub at: Instant,
    /// Method, path and query.
    pub line: String,
}

/// A write that the server refused.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
#[error("the API server refused: {0}")]
pub struct Refused(String);

impl From<Status> for Refused {
    fn from(status: Status) -> Self {
        Self(status.message)
    }
}

/// What connections share.
#[derive(Debug)]
struct Shared {
    options: Options,
    store: Mutex<Store>,
    fault: Mutex<Option<Fault>>,
    has_crd: Mutex<bool>,
    received: Mutex<Vec<Received>>,
    changed: channel::Sender<u64>,
    /// Changes when every connection is to end.
    cut: channel::Sender<u64>,
}

impl ApiServer {
    /// Starts a server without faults on a free port of the loopback address, with the namespace `default`.
    ///
    /// # Errors
    /// If there is no free port, or no thread.
    pub fn start(options: Options) -> io::Result<Self> {
        let listener = TcpListener::bind(("127.0.0.1", 0))?;
        let address = listener.local_addr()?;
        let shared = Arc::new(Shared {
            options,
            store: Mutex::new(Store::new()),
            fault: Mutex::new(None),
            has_crd: Mutex::new(true),
            received: Mutex::new(Vec::new()),
            changed: channel::Sender::new(0),
            cut: channel::Sender::new(0),
        });
        let (listeners, receiver) = mpsc::unbounded_channel();
        let runtime = runtime::Builder::new_current_thread().enable_all().build()?;
        let running = shared.clone();
        let thread = thread::Builder::new()
            .name("api-server".into())
            .spawn(move || runtime.block_on(run(running, receiver)))?;
        let server = Self { shared, listeners: Some(listeners), address, thread: Some(thread) };
        server.listen(listener);
        let namespace = json!({ "kind": "Namespace", "metadata": { "name": "default" } });
        server.put(&namespace).map_err(io::Error::other)?;
        Ok(server)
    }

    /// Answers on another listener too; it may belong to another network namespace.
    pub fn listen(&self, listener: TcpListener) {
        if let Some(listeners) = &self.listeners {
            let _ = listeners.send(listener);
        }
    }

    /// Returns the first listener's address.
    #[must_use]
    pub const fn address(&self) -> SocketAddr {
        self.address
    }

    /// Creates or replaces an object, its status included: the test plays kubelet and controllers.
    ///
    /// # Errors
    /// If the server would refuse.
    pub fn put(&self, object: &Value) -> Result<(), Refused> {
        let (resource, key) = named(object)?;
        self.shared.write(|store| {
            if store.object(resource, &key).is_ok() {
                store.replace(resource, key, object.clone(), Part::All)
            } else {
                store.create(resource, &key.0, object.clone(), Part::All)
            }
        })?;
        Ok(())
    }

    /// Applies a merge patch to an object, its status included.
    ///
    /// # Errors
    /// If there is no such object.
    pub fn patch(
        &self,
        kind: &str,
        namespace: &str,
        name: &str,
        patch: &Value,
    ) -> Result<(), Refused> {
        let (resource, key) = (of_kind(kind)?, (namespace.to_owned(), name.to_owned()));
        self.shared.write(|store| store.patch(resource, key, patch, Part::All))?;
        Ok(())
    }

    /// Deletes an object at once.
    ///
    /// # Errors
    /// If there is no such object.
    pub fn delete(&self, kind: &str, namespace: &str, name: &str) -> Result<(), Refused> {
        let (resource, key) = (of_kind(kind)?, (namespace.to_owned(), name.to_owned()));
        self.shared.write(|store| store.delete(resource, key, Some(0)))?;
        Ok(())
    }

    /// Forgets what happened until now: older versions are too old.
    pub fn compact(&self) {
        self.shared.store().compact();
    }

    /// Ends every connection.
    pub fn cut_off(&self) {
        self.shared.cut.send_modify(|cut| *cut += 1);
    }

    /// Ends every connection and forgets its history, as a restarted server does.
    pub fn restart(&self) {
        self.shared.store().forget();
        self.cut_off();
    }

    /// Begins or ends to do something wrong.
    pub fn set_fault(&self, fault: Option<Fault>) {
        *lock(&self.shared.fault) = fault;
    }

    /// Serves ClusterNetworkPolicies, as from the start.
    pub fn install_crd(&self) {
        *lock(&self.shared.has_crd) = true;
    }

    /// Serves no ClusterNetworkPolicies.
    pub fn remove_crd(&self) {
        *lock(&self.shared.has_crd) = false;
    }

    /// Returns the current revision.
    #[must_use]
    pub fn revision(&self) -> u64 {
        self.shared.store().revision
    }

    /// Returns the requests received so far.
    #[must_use]
    pub fn received(&self) -> Vec<Received> {
        lock(&self.shared.received).clone()
    }
}

/// What leads a client to a server without access control: a kubeconfig, as JSON.
#[must_use]
pub fn kubeconfig(server: SocketAddr) -> String {
    let config = json!({
        "apiVersion": "v1", "kind": "Config", "current-context": "test",
        "clusters": [{ "name": "test", "cluster": { "server": format!("http://{server}") } }],
        "users": [{ "name": "test", "user": {} }],
        "contexts": [{ "name": "test", "context": { "cluster": "test", "user": "test" } }],
    });
    config.to_string()
}

impl Drop for ApiServer {
    fn drop(&mut self) {
        self.listeners = None;
        self.cut_off();
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

impl Shared {
    fn store(&self) -> MutexGuard<'_, Store> {
        lock(&self.store)
    }

    fn fault(&self) -> Option<Fault> {
        *lock(&self.fault)
    }

    fn has_crd(&self) -> bool {
        *lock(&self.has_crd)
    }

    fn note<B>(&self, request: &::http::Request<B>) {
        let line = format!("{} {}", request.method(), request.uri());
        lock(&self.received).push(Received { at: Instant::now(), line });
    }

    fn write<T>(&self, write: impl FnOnce(&mut Store) -> Result<T, Status>) -> Result<T, Status> {
        let mut store = self.store();
        let written = write(&mut store);
        let revision = store.revision;
        drop(store);
        self.changed.send_replace(revision);
        written
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn of_kind(kind: &str) -> Result<&'static Resource, Refused> {
    Resource::of_kind(kind).ok_or_else(|| Refused(format!("no kind `{kind}`")))
}

fn named(object: &Value) -> Result<(&'static Resource, store::Key), Refused> {
    let kind = store::text(object, "/kind").unwrap_or_default();
    let name = store::text(object, "/metadata/name").unwrap_or_default();
    Ok((of_kind(kind)?, (http::namespace_of(object), name.to_owned())))
}

/// Serves listeners until their sender is gone.
async fn run(shared: Arc<Shared>, mut listeners: mpsc::UnboundedReceiver<TcpListener>) {
    while let Some(listener) = listeners.recv().await {
        let ready = listener.set_nonblocking(true);
        if let Ok(listener) = ready.and_then(|()| tokio::net::TcpListener::from_std(listener)) {
            tokio::spawn(accept(shared.clone(), listener));
        }
    }
}

async fn accept(shared: Arc<Shared>, listener: tokio::net::TcpListener) {
    while let Ok((stream, _)) = listener.accept().await {
        if shared.fault() == Some(Fault::Refuse) {
            continue;
        }
        let _ = stream.set_nodelay(true);
        let shared = shared.clone();
        tokio::spawn(async move {
            let mut cut = shared.cut.subscribe();
            let answering = shared.clone();
            let service = service_fn(move |request: ::http::Request<Incoming>| {
                http::answer(answering.clone(), request)
            });
            let connection = http1::Builder::new().serve_connection(TokioIo::new(stream), service);
            tokio::pin!(connection);
            tokio::select! {
                _ = connection.as_mut() => {}
                _ = cut.changed() => {
                    if shared.fault() == Some(Fault::StreamError) {
                        // The watches have a last word to say.
                        let _ = tokio::time::timeout(Duration::from_secs(1), connection).await;
                    }
                }
            }
        });
    }
}

//! `/livez`, `/readyz` and `/metrics`.

use alloc::sync::Arc;
use core::convert::Infallible;
use core::time::Duration;

use http_body_util::Full;
use hyper::body::{Bytes, Incoming};
use hyper::header::{CONTENT_TYPE, HeaderValue};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use tokio::net::TcpListener;
use tokio::sync::{mpsc, oneshot};
use tokio::time::timeout;

use crate::agent::Request as Ask;
use crate::status::Shared;

/// How long the loop may take to bring the metrics up to date; after that they are told as they are.
const PATIENCE: Duration = Duration::from_secs(2);

pub(crate) async fn serve(listener: TcpListener, shared: Arc<Shared>, agent: mpsc::Sender<Ask>) {
    loop {
        let Ok((stream, _)) = listener.accept().await else {
            // Out of open files, for one; the loop must not spin on it.
            tokio::time::sleep(Duration::from_millis(100)).await;
            continue;
        };
        let (shared, agent) = (shared.clone(), agent.clone());
        tokio::spawn(async move {
            let service = service_fn(move |request: Request<Incoming>| {
                let (shared, agent) = (shared.clone(), agent.clone());
                async move {
                    let path = request.uri().path();
                    if path == "/metrics" {
                        measure(&agent).await;
                    }
                    Ok::<_, Infallible>(answer(&shared, path))
                }
            });
            let connection = http1::Builder::new().serve_connection(TokioIo::new(stream), service);
            if let Err(error) = connection.await {
                tracing::debug!(%error, "a connection broke");
            }
        });
    }
}

async fn measure(agent: &mpsc::Sender<Ask>) {
    let (done, measured) = oneshot::channel();
    let ask = async {
        if agent.send(Ask::Measure(done)).await.is_ok() {
            let _ = measured.await;
        }
    };
    let _ = timeout(PATIENCE, ask).await;
}

fn answer(shared: &Shared, path: &str) -> Response<Full<Bytes>> {
    let status = shared.status().clone();
    match path {
        "/livez" if status.is_alive() => text(StatusCode::OK, "ok\n".to_owned()),
        "/livez" => text(StatusCode::SERVICE_UNAVAILABLE, "the loop does not turn\n".to_owned()),
        "/readyz" => {
            let complaints = status.complaints();
            let code = if complaints.is_empty() {
                StatusCode::OK
            } else {
                StatusCode::SERVICE_UNAVAILABLE
            };
            let mut lines = if complaints.is_empty() { vec!["ok".to_owned()] } else { complaints };
            lines.extend(
                status
                    .failing
                    .iter()
                    .map(|(kind, why)| format!("{kind}: the last known state is enforced: {why}")),
            );
            text(code, lines.join("\n") + "\n")
        }
        "/metrics" => {
            let mut response = text(StatusCode::OK, shared.metrics.text(&status));
            let kind = "application/openmetrics-text; version=1.0.0; charset=utf-8";
            response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(kind));
            response
        }
        _ => text(StatusCode::NOT_FOUND, "there are /livez, /readyz and /metrics\n".to_owned()),
    }
}

fn text(code: StatusCode, text: String) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(Bytes::from(text)));
    *response.status_mut() = code;
    response
}

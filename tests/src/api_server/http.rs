//! Requests to answers, and the faults on the way.

use alloc::sync::Arc;
use core::convert::Infallible;
use core::pin::Pin;
use core::task::{Context, Poll};
use std::io;

use bytes::Bytes;
use http::{Method, Request, Response};
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt as _, Full};
use hyper::body::{Body, Frame, Incoming};
use serde_json::{Value, json};
use tokio::sync::mpsc;

use super::list::list;
use super::query::Query;
use super::resource::{Origin, RESOURCES, Resource, Scope};
use super::selector::Filter;
use super::status::Status;
use super::store::{Part, text};
use super::watch::Watch;
use super::{Fault, Shared, discovery};

type Answer = Response<UnsyncBoxBody<Bytes, io::Error>>;

/// A body that arrives piece by piece, and may break off.
struct Pieces(mpsc::Receiver<Result<Bytes, io::Error>>);

impl Body for Pieces {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, io::Error>>> {
        self.0.poll_recv(context).map(|piece| piece.map(|piece| piece.map(Frame::data)))
    }
}

/// What a path names.
struct Place {
    resource: &'static Resource,
    namespace: String,
    name: String,
    part: Part,
}

pub(super) async fn answer(
    shared: Arc<Shared>,
    request: Request<Incoming>,
) -> Result<Answer, Infallible> {
    shared.note(&request);
    match shared.fault() {
        Some(Fault::Hang) => core::future::pending().await,
        Some(Fault::Forbidden) => return Ok(refusal(&Status::forbidden())),
        Some(
            Fault::Cut
            | Fault::Drip(_)
            | Fault::Expired
            | Fault::Mute
            | Fault::Refuse
            | Fault::StreamError,
        )
        | None => {}
    }
    Ok(route(&shared, request).await.unwrap_or_else(|status| refusal(&status)))
}

async fn route(shared: &Arc<Shared>, request: Request<Incoming>) -> Result<Answer, Status> {
    let path = request.uri().path().to_owned();
    let parts: Vec<&str> = path.split('/').filter(|part| !part.is_empty()).collect();
    let is_served = |resource: &Resource| resource.origin == Origin::BuiltIn || shared.has_crd();
    if let Some(answer) = discovery::answer(&parts, &is_served) {
        return Ok(body(shared, 200, &answer));
    }
    let place = place(&parts).filter(|place| is_served(place.resource));
    let place = place.ok_or_else(Status::unknown_path)?;
    let query = Query::parse(request.uri().query().unwrap_or_default());
    let key = (place.namespace.clone(), place.name.clone());
    match (request.method().clone(), place.name.as_str()) {
        (Method::GET, "") => {
            let filter = Filter::parse(
                place.resource,
                &place.namespace,
                query.text("labelSelector"),
                query.text("fieldSelector"),
            )?;
            if query.is_true("watch") {
                let watch = Watch::new(shared, place.resource, filter, &query)?;
                let (sender, receiver) = mpsc::channel(16);
                tokio::spawn(watch.run(shared.clone(), sender));
                return Ok(response(200, Pieces(receiver).boxed_unsync()));
            }
            let answer = list(&shared.store(), place.resource, &filter, &query)?;
            Ok(body(shared, 200, &answer))
        }
        (Method::GET, _) => {
            let object = shared.store().object(place.resource, &key)?.clone();
            Ok(body(shared, 200, &object))
        }
        (Method::POST, "") => {
            let object = read(request).await?;
            let namespace = place.namespace.as_str();
            let created = shared
                .write(|store| store.create(place.resource, namespace, object, Part::Main))?;
            Ok(body(shared, 201, &created))
        }
        (Method::PUT, _) => {
            let object = read(request).await?;
            let stored =
                shared.write(|store| store.replace(place.resource, key, object, place.part))?;
            Ok(body(shared, 200, &stored))
        }
        (Method::PATCH, _) => {
            let is_apply = content_type(&request).contains("apply-patch");
            let patch = read(request).await?;
            let (code, stored) = shared.write(|store| {
                if is_apply && store.object(place.resource, &key).is_err() {
                    let created =
                        store.create(place.resource, &place.namespace, patch, Part::Main)?;
                    return Ok((201, created));
                }
                Ok((200, store.patch(place.resource, key, &patch, place.part)?))
            })?;
            Ok(body(shared, code, &stored))
        }
        (Method::DELETE, "") => {
            let filter = Filter::parse(
                place.resource,
                &place.namespace,
                query.text("labelSelector"),
                query.text("fieldSelector"),
            )?;
            let keys: Vec<_> = shared
                .store()
                .objects(place.resource)
                .filter(|(_, object)| filter.admits(object))
                .map(|(key, _)| key.clone())
                .collect();
            for key in keys {
                shared.write(|store| store.delete(place.resource, key, None))?;
            }
            Ok(body(
                shared,
                200,
                &json!({ "kind": "Status", "apiVersion": "v1", "status": "Success" }),
            ))
        }
        (Method::DELETE, _) => {
            let options = read(request).await.unwrap_or(Value::Null);
            let grace = query
                .number("gracePeriodSeconds")
                .or_else(|| options.get("gracePeriodSeconds").and_then(Value::as_u64));
            let last = shared.write(|store| store.delete(place.resource, key, grace))?;
            Ok(body(shared, 200, &last))
        }
        (_, _) => Err(Status::unknown_path()),
    }
}

fn place(parts: &[&str]) -> Option<Place> {
    let (group, version, rest) = match parts {
        ["api", version, rest @ ..] => ("", *version, rest),
        ["apis", group, version, rest @ ..] => (*group, *version, rest),
        _ => return None,
    };
    let (namespace, rest) = match rest {
        ["namespaces", namespace, plural, rest @ ..] if !is_subresource(plural) => {
            (*namespace, (*plural, rest))
        }
        [plural, rest @ ..] => ("", (*plural, rest)),
        [] => return None,
    };
    let (plural, rest) = rest;
    let resource = RESOURCES.iter().find(|resource| {
        resource.group == group && resource.version == version && resource.plural == plural
    })?;
    let (name, part) = match rest {
        [] => ("", Part::Main),
        [name] => (*name, Part::Main),
        [name, "status"] => (*name, Part::Status),
        [..] => return None,
    };
    // Objects of a namespaced kind are read and written inside their namespace only.
    if resource.scope == Scope::Namespaced && namespace.is_empty() && !name.is_empty() {
        return None;
    }
    Some(Place { resource, namespace: namespace.to_owned(), name: name.to_owned(), part })
}

fn is_subresource(part: &str) -> bool {
    matches!(part, "finalize" | "status")
}

fn content_type(request: &Request<Incoming>) -> String {
    let value = request.headers().get(http::header::CONTENT_TYPE);
    value.and_then(|value| value.to_str().ok()).unwrap_or_default().to_owned()
}

async fn read(request: Request<Incoming>) -> Result<Value, Status> {
    let kind = content_type(&request);
    if kind.contains("protobuf") {
        return Err(Status::unsupported_media(&kind));
    }
    let bytes = request.into_body().collect().await;
    let bytes = bytes.map_err(|error| Status::bad_request(error.to_string()))?.to_bytes();
    serde_json::from_slice(&bytes).map_err(|error| Status::bad_request(error.to_string()))
}

fn refusal(status: &Status) -> Answer {
    let text = status.to_json().to_string();
    let body = Full::new(Bytes::from(text)).map_err(|never| match never {});
    response(status.code, body.boxed_unsync())
}

/// Answers with a JSON text, whole or dripping.
fn body(shared: &Arc<Shared>, code: u16, value: &Value) -> Answer {
    let text = match value.as_str() {
        Some(text) => text.to_owned(),
        None => value.to_string(),
    };
    let Some(Fault::Drip(pause)) = shared.fault() else {
        let body = Full::new(Bytes::from(text)).map_err(|never| match never {});
        return response(code, body.boxed_unsync());
    };
    let (sender, receiver) = mpsc::channel(1);
    tokio::spawn(async move {
        for byte in text.into_bytes() {
            tokio::time::sleep(pause).await;
            if sender.send(Ok(Bytes::copy_from_slice(&[byte]))).await.is_err() {
                return;
            }
        }
    });
    response(code, Pieces(receiver).boxed_unsync())
}

fn response(code: u16, body: UnsyncBoxBody<Bytes, io::Error>) -> Answer {
    let mut response = Response::new(body);
    *response.status_mut() =
        http::StatusCode::from_u16(code).unwrap_or(http::StatusCode::INTERNAL_SERVER_ERROR);
    let json = http::HeaderValue::from_static("application/json");
    response.headers_mut().insert(http::header::CONTENT_TYPE, json);
    response
}

/// The namespace an object says it is in.
pub(super) fn namespace_of(object: &Value) -> String {
    text(object, "/metadata/namespace").unwrap_or_default().to_owned()
}

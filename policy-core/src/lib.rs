//! Kubernetes network policy as one exact, normalized rule IR.
//!
//! ```text
//!   objects ──compile──▶ Ruleset (the IR) ──lower──▶ a backend's program ──apply──▶ kernel
//!                           │
//!                        verdict(flow)
//! ```
//!
//! This crate holds everything that can be said about policy without touching a kernel or an API server: the
//! [`model`] of the objects, the [`net`] algebra of prefixes and ports, [`compile()`](compile::compile) from
//! objects to [`ir`], the verdict of a flow, and the seam that a [`backend`] implements. It does no I/O, knows no clock
//! and keeps no map whose order could vary: equal input gives equal bytes.
//!
//! The ids in comments (NP-…, CNP-…, VAL-…, DEC-…) name the numbered statements in `docs/semantics.md`.
#![no_std]
#![forbid(unsafe_code)]
#![cfg_attr(docsrs, feature(doc_cfg))]

extern crate alloc;

pub mod addresses;
pub mod atoms;
pub mod backend;
pub mod compile;
pub mod engine;
pub mod explain;
pub mod ir;

pub mod matrix;
pub mod model;
pub mod net;

/// The example of the README, kept true.
#[doc = include_str!("../../README.md")]
#[cfg(doctest)]
pub struct Readme;

//! Why a kind cannot be followed at the moment.

use core::error::Error;
use core::time::Duration;

use super::wire::Status;

/// Why a kind cannot be followed at the moment. None of these is final.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Failure {
    /// A stream ended in the middle of an event.
    #[error("the connection was cut in the middle of an event")]
    CutOff,
    /// The version to go on from is too old; everything is listed again.
    #[error("the API server has forgotten the version to go on from")]
    Expired,
    /// An answer is not what the API promises.
    #[error("the API server's answer cannot be read")]
    Malformed(#[source] Box<dyn Error + Send + Sync>),
    /// The server refused.
    #[error("the API server refused with {code} {reason}: {message}")]
    Refused {
        /// HTTP status.
        code: u16,
        /// The machine's word for it.
        reason: String,
        /// The words for people.
        message: String,
    },
    /// The server accepted and said nothing.
    #[error("no answer from the API server within {0:?}")]
    Silent(Duration),
    /// A watch ended as soon as it began.
    #[error("the API server ended the watch at once")]
    Ended,
    /// The server cannot be reached.
    #[error("the API server cannot be reached")]
    Unreachable(#[source] Box<dyn Error + Send + Sync>),
}

impl Failure {
    /// Returns a short word that tells failures apart, for metrics.
    #[must_use]
    pub const fn reason(&self) -> &'static str {
        match self {
            Self::CutOff => "cut-off",
            Self::Ended => "ended",
            Self::Expired => "expired",
            Self::Malformed(_) => "malformed",
            Self::Refused { code: 403, .. } => "forbidden",
            Self::Refused { code: 404, .. } => "not-found",
            Self::Refused { .. } => "refused",
            Self::Silent(_) => "silent",
            Self::Unreachable(_) => "unreachable",
        }
    }

    pub(super) fn of_status(code: u16, status: Status) -> Self {
        if code == 410 || (code == 504 && status.message.contains("Too large resource version")) {
            return Self::Expired;
        }
        Self::Refused { code, reason: status.reason, message: status.message }
    }

    pub(super) const fn is_not_found(&self) -> bool {
        matches!(self, Self::Refused { code: 404, .. })
    }
}

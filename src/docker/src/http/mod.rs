//! HTTP as Docker's clients speak it: versions, parameters, filters, bodies, errors, streams and sessions.
//! Nothing here knows containers.

mod body;
mod call;
mod error;
mod filters;
mod frames;
mod params;
mod reply;
mod serve;
mod stream;
mod upload;
mod version;

pub(crate) use call::Call;
pub(crate) use error::{ApiError, Result};
pub(crate) use filters::Filters;
pub(crate) use frames::{Stream, frame};
pub(crate) use reply::{Io, Reply};
pub(crate) use serve::{Handler, Listening};
pub(crate) use stream::{Gone, Out};
pub(crate) use upload::upload;
pub(crate) use version::ApiVersion;

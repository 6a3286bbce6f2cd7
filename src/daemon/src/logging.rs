//! Logging: structured lines on standard error; and spans of traces, if they are sent.

use tracing_subscriber::fmt::format::FmtSpan;
use tracing_subscriber::layer::{Layer, SubscriberExt};
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{EnvFilter, Registry, fmt};

use crate::cli::LogFormat;
use crate::traces::Traces;

/// Starts logging. The filter was checked with the configuration.
pub(crate) fn start(filter: &str, format: LogFormat, traces: Option<&Traces>) -> anyhow::Result<()> {
    let filter = parse(filter)?;
    let lines = fmt::layer().with_writer(std::io::stderr).with_span_events(FmtSpan::NONE).with_target(false);
    let lines: Box<dyn Layer<Registry> + Send + Sync> = match format {
        LogFormat::Text => lines.with_ansi(std::io::IsTerminal::is_terminal(&std::io::stderr())).boxed(),
        LogFormat::Json => lines.json().boxed(),
    };
    // Spans of traces are built only for traces. Where they are, lines say which call they belong to.
    let spans = if traces.is_some() { "info" } else { "off" };
    let filter = filter.add_directive(format!("{}={spans}", engine::TRACE_TARGET).parse()?);
    let subscriber = tracing_subscriber::registry().with(lines.with_filter(filter));
    let started = match traces {
        Some(traces) => subscriber.with(traces.layer()).try_init(),
        None => subscriber.try_init(),
    };
    started.map_err(|error| anyhow::anyhow!("start logging: {error}"))
}

/// A level, or a list of them per part of the program.
pub(crate) fn parse(filter: &str) -> anyhow::Result<EnvFilter> {
    EnvFilter::builder()
        .parse(filter)
        .map_err(|_| anyhow::anyhow!("{filter:?} is not a log level: use error, warn, info, debug or trace"))
}

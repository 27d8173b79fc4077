//! Traces of batches for whoever collects them by OTLP: a span for each batch, and within it one for each of its parts.
//!
//! Where they go, with which headers and how often is what OpenTelemetry's variables of the environment say.

use std::time::{Duration, SystemTime};

use catchment_catalog::BatchRecord;
use catchment_core::{Code, Error, FlowName, Result};
use catchment_flows::{Phase, Phases};
use opentelemetry::trace::{Span, SpanBuilder, Status, TraceContextExt, Tracer};
use opentelemetry::{Context, KeyValue, global};
use opentelemetry_otlp::SpanExporter;
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::trace::SdkTracerProvider;

/// Who made the spans.
const SCOPE: &str = "catchment";

/// How long the last spans may take on their way.
const GRACE: Duration = Duration::from_secs(5);

/// What sends spans.
#[derive(Debug)]
pub(crate) struct Traces(SdkTracerProvider);

impl Traces {
    /// Starts sending, as a service of our own name when nobody named another.
    ///
    /// # Errors
    /// Returns [`Code::CONFIG_INVALID`] when the variables are not as they must be.
    pub(crate) fn start(is_unnamed: bool) -> Result<Self> {
        let exporter = SpanExporter::builder().with_http().build().map_err(|error| {
            Error::new(Code::CONFIG_INVALID, "the variables OTEL_EXPORTER_OTLP_* cannot be followed")
                .because(error)
        })?;
        let resource = Resource::builder();
        let resource = if is_unnamed { resource.with_service_name(SCOPE) } else { resource };
        let provider = SdkTracerProvider::builder()
            .with_batch_exporter(exporter)
            .with_resource(resource.build())
            .build();
        global::set_tracer_provider(provider.clone());
        Ok(Self(provider))
    }

    /// Sends what is left.
    pub(crate) fn end(self) {
        if let Err(error) = self.0.shutdown_with_timeout(GRACE) {
            tracing::warn!(%error, "the last traces were not sent");
        }
    }
}

/// Tells of a batch that was published, and of how long its parts took.
pub(crate) fn published(batch: &BatchRecord, took: &Phases) {
    let number = |count: u64| i64::try_from(count).unwrap_or(i64::MAX);
    let counts = [
        ("version", batch.version),
        ("rows_in", batch.rows_in),
        ("rows_out", batch.rows_out),
        ("quarantined", batch.quarantined),
        ("dropped", batch.dropped),
        ("spilled_bytes", batch.spilled_bytes),
        ("files", batch.files),
    ];
    let mut attributes = of_flow(&batch.flow);
    attributes.push(KeyValue::new("catchment.dataset", batch.dataset.to_string()));
    attributes.push(KeyValue::new("catchment.batch", batch.position.to_string()));
    attributes.extend(batch.run.clone().map(|run| KeyValue::new("catchment.run", run)));
    attributes.extend(counts.map(|(name, count)| KeyValue::new(format!("catchment.{name}"), number(count))));
    let end = SystemTime::UNIX_EPOCH + Duration::from_micros(batch.committed_at.unsigned_abs());
    let mut start = end - Phase::ALL.iter().map(|phase| took.of(*phase)).sum::<Duration>();
    let tracer = global::tracer(SCOPE);
    let mut whole = tracer.build_with_context(
        SpanBuilder::from_name("batch").with_start_time(start).with_attributes(attributes),
        &Context::new(),
    );
    let within = Context::new().with_remote_span_context(whole.span_context().clone());
    for phase in Phase::ALL.into_iter().filter(|phase| !took.of(*phase).is_zero()) {
        let builder = SpanBuilder::from_name(phase.name()).with_start_time(start);
        start += took.of(phase);
        tracer.build_with_context(builder, &within).end_with_timestamp(start);
    }
    whole.end_with_timestamp(end);
}

/// Tells of an attempt that failed just now and is going to be repeated.
pub(crate) fn retrying(flow: &FlowName, error: &Error) {
    let builder = SpanBuilder::from_name("batch").with_attributes(of_flow(flow));
    let mut span = global::tracer(SCOPE).build_with_context(builder, &Context::new());
    span.set_attribute(KeyValue::new("error.type", error.code().id));
    span.set_status(Status::error(error.one_line()));
    span.end();
}

fn of_flow(flow: &FlowName) -> Vec<KeyValue> {
    vec![KeyValue::new("catchment.flow", flow.to_string())]
}

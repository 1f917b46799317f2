//! What is written to `tracing`, collected.

use std::{
    fmt::{Debug, Write},
    sync::{Arc, Mutex, OnceLock},
};

use tracing::{
    Dispatch, Event, Id, Level, Metadata, Subscriber,
    field::{Field, Visit},
    span::{Attributes, Record},
    subscriber::DefaultGuard,
};
use tracing_subscriber::{
    Layer,
    layer::{Context, SubscriberExt},
    registry::LookupSpan,
    util::SubscriberInitExt,
};

/// To be called at the beginning of each test of a file in which one collects logs.
///
/// `tracing` remembers for each line of code whether anyone listens. While there is but one
/// listener in the process, it asks the thread that comes to the line first, which may be that of
/// another test, where nobody does. So there are always two more.
pub fn prepare() {
    static LISTENERS: OnceLock<[Dispatch; 2]> = OnceLock::new();
    let listener = || Dispatch::new(tracing_subscriber::registry());
    LISTENERS.get_or_init(|| [listener(), listener()]);
}

/// Collects every span and event of the thread, at every level and of every target.
#[derive(Clone, Default)]
pub struct Logs(Arc<Mutex<Vec<Line>>>);

/// A span, what was recorded in one later, or an event.
#[derive(Clone, Debug)]
pub struct Line {
    pub is_event: bool,
    pub level: Level,
    pub target: String,
    pub name: String,
    /// As ` name=value`, one after another.
    pub fields: String,
    /// The names of the spans around it, the outermost first.
    pub spans: Vec<String>,
}

impl Logs {
    /// Collects until the guard is dropped.
    pub fn collect() -> (Self, DefaultGuard) {
        prepare();
        let logs = Self::default();
        let guard = tracing_subscriber::registry()
            .with(logs.clone())
            .set_default();
        (logs, guard)
    }

    pub fn all(&self) -> Vec<Line> {
        self.0.lock().unwrap().clone()
    }

    /// What the layer itself wrote.
    pub fn own(&self) -> Vec<Line> {
        let own = |line: &Line| line.target.starts_with("mcp_session_recovery");
        self.all().into_iter().filter(own).collect()
    }

    fn push(&self, is_event: bool, of: &Metadata<'_>, fields: Fields, spans: Vec<String>) {
        self.0.lock().unwrap().push(Line {
            is_event,
            level: *of.level(),
            target: of.target().to_owned(),
            name: of.name().to_owned(),
            fields: fields.0,
            spans,
        });
    }
}

#[derive(Default)]
struct Fields(String);

impl Visit for Fields {
    fn record_debug(&mut self, field: &Field, value: &dyn Debug) {
        write!(self.0, " {}={value:?}", field.name()).unwrap();
    }
}

impl<S> Layer<S> for Logs
where
    S: Subscriber + for<'a> LookupSpan<'a>,
{
    fn on_new_span(&self, attributes: &Attributes<'_>, _: &Id, _: Context<'_, S>) {
        let mut fields = Fields::default();
        attributes.record(&mut fields);
        self.push(false, attributes.metadata(), fields, Vec::new());
    }

    fn on_record(&self, id: &Id, values: &Record<'_>, context: Context<'_, S>) {
        let mut fields = Fields::default();
        values.record(&mut fields);
        let of = context.metadata(id).expect("a span");
        self.push(false, of, fields, Vec::new());
    }

    fn on_event(&self, event: &Event<'_>, context: Context<'_, S>) {
        let mut fields = Fields::default();
        event.record(&mut fields);
        let scope = context.event_scope(event).into_iter();
        let spans = scope.flat_map(|scope| scope.from_root());
        let spans = spans.map(|span| span.name().to_owned()).collect();
        self.push(true, event.metadata(), fields, spans);
    }
}

//! Where metrics are registered, and what is known of each.
//!
//! A metric is resolved to its handles once; counting an event is then one atomic addition, without a look-up
//! by name. Names, kinds, labels and help are a contract with dashboards: [`Registry::describe`] lists them,
//! and a golden test of the daemon holds that list.

use std::fmt;
use std::marker::PhantomData;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use prometheus::core::Collector;
use prometheus::{
    Counter, CounterVec, Encoder, Gauge, GaugeVec, Histogram, HistogramOpts, HistogramVec, IntCounter,
    IntCounterVec, IntGauge, IntGaugeVec, Opts, TextEncoder,
};

use super::labels::Labels;

/// Bounds in seconds: what a node agent does takes from half a millisecond to a minute.
const BUCKETS: [f64; 16] =
    [0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0];

/// A set of metrics. Cheap to clone.
#[derive(Debug, Clone, Default)]
pub struct Registry {
    metrics: prometheus::Registry,
    descriptions: Arc<Mutex<Vec<Description>>>,
}

/// What is promised of a metric.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Description {
    /// Its name.
    pub name: &'static str,
    /// `counter`, `gauge` or `histogram`.
    pub kind: &'static str,
    /// One sentence.
    pub help: &'static str,
    /// Names of its labels, each with all its values.
    pub labels: Vec<(&'static str, Vec<&'static str>)>,
}

/// Finds the series of some label values.
type Resolve<M> = Box<dyn Fn(&[&str]) -> M + Send + Sync>;

/// A metric with labels, resolved to one handle per combination of values.
pub struct Family<L, M> {
    resolve: Resolve<M>,
    handles: Box<[OnceLock<M>]>,
    labels: PhantomData<fn(L)>,
}

/// A counter of events with labels.
pub type Counters<L> = Family<L, IntCounter>;
/// A gauge of whole numbers with labels.
pub type Gauges<L> = Family<L, IntGauge>;
/// A histogram of seconds with labels.
pub type Histograms<L> = Family<L, Histogram>;

impl<L: Labels, M> Family<L, M> {
    fn new(resolve: impl Fn(&[&str]) -> M + Send + Sync + 'static) -> Self {
        let handles = (0..L::COUNT).map(|_| OnceLock::new()).collect();
        Self { resolve: Box::new(resolve), handles, labels: PhantomData }
    }

    /// Makes all series appear at once, so that the first event is seen as an increase.
    #[must_use]
    pub fn filled(self) -> Self {
        for labels in L::all() {
            self.get(labels);
        }
        self
    }

    /// The series of these labels.
    pub fn get(&self, labels: L) -> &M {
        self.handles[labels.index()].get_or_init(|| (self.resolve)(&labels.values()))
    }
}

impl<L, M> fmt::Debug for Family<L, M> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Family").field("series", &self.handles.len()).finish_non_exhaustive()
    }
}

impl Registry {
    /// A registry without metrics.
    pub fn new() -> Self {
        Self::default()
    }

    fn add<L: Labels>(
        &self,
        metric: impl Collector + 'static,
        name: &'static str,
        kind: &'static str,
        help: &'static str,
    ) {
        let mut labels: Vec<(&str, Vec<&str>)> = L::keys().into_iter().map(|key| (key, Vec::new())).collect();
        for values in L::all().into_iter().map(L::values) {
            for ((_, known), value) in labels.iter_mut().zip(values) {
                if !known.contains(&value) {
                    known.push(value);
                }
            }
        }
        self.describe_only(Description { name, kind, help, labels });
        self.metrics
            .register(Box::new(metric))
            .expect("names of metrics differ: the golden test registers all of them");
    }

    fn describe_only(&self, description: Description) {
        self.descriptions.lock().unwrap_or_else(PoisonError::into_inner).push(description);
    }

    /// Registers a counter with labels; its series appear when they are first counted.
    pub fn counters<L: Labels>(&self, name: &'static str, help: &'static str) -> Counters<L> {
        let metrics = IntCounterVec::new(Opts::new(name, help), &L::keys()).expect(VALID);
        self.add::<L>(metrics.clone(), name, "counter", help);
        Family::new(move |values| metrics.with_label_values(values))
    }

    /// Registers a counter.
    pub fn counter(&self, name: &'static str, help: &'static str) -> IntCounter {
        self.counters::<()>(name, help).get(()).clone()
    }

    /// Registers a counter of something that is measured and not counted, such as seconds.
    pub fn measure(&self, name: &'static str, help: &'static str) -> Counter {
        let metrics = CounterVec::new(Opts::new(name, help), &[]).expect(VALID);
        self.add::<()>(metrics.clone(), name, "counter", help);
        metrics.with_label_values::<&str>(&[])
    }

    /// Registers a gauge with labels; its series appear when they are first set.
    pub fn gauges<L: Labels>(&self, name: &'static str, help: &'static str) -> Gauges<L> {
        let metrics = IntGaugeVec::new(Opts::new(name, help), &L::keys()).expect(VALID);
        self.add::<L>(metrics.clone(), name, "gauge", help);
        Family::new(move |values| metrics.with_label_values(values))
    }

    /// Registers a gauge.
    pub fn gauge(&self, name: &'static str, help: &'static str) -> IntGauge {
        self.gauges::<()>(name, help).get(()).clone()
    }

    /// Registers a gauge of something that is measured and not counted, such as seconds.
    pub fn level(&self, name: &'static str, help: &'static str) -> Gauge {
        let metrics = GaugeVec::new(Opts::new(name, help), &[]).expect(VALID);
        self.add::<()>(metrics.clone(), name, "gauge", help);
        metrics.with_label_values::<&str>(&[])
    }

    /// Registers a gauge that is always 1 and says something by labels of any value: a release, for example.
    pub fn info(&self, name: &'static str, help: &'static str, labels: &[(&'static str, &str)]) {
        let keys: Vec<&str> = labels.iter().map(|(key, _)| *key).collect();
        let values: Vec<&str> = labels.iter().map(|(_, value)| *value).collect();
        let metrics = IntGaugeVec::new(Opts::new(name, help), &keys).expect(VALID);
        metrics.with_label_values(&values).set(1);
        let labels = labels.iter().map(|(key, _)| (*key, Vec::new())).collect();
        self.describe_only(Description { name, kind: "gauge", help, labels });
        self.metrics
            .register(Box::new(metrics))
            .expect("names of metrics differ: the golden test registers all of them");
    }

    /// Registers a histogram of seconds with labels; its series appear when they are first observed.
    pub fn histograms<L: Labels>(&self, name: &'static str, help: &'static str) -> Histograms<L> {
        let options = HistogramOpts::new(name, help).buckets(BUCKETS.to_vec());
        let metrics = HistogramVec::new(options, &L::keys()).expect(VALID);
        self.add::<L>(metrics.clone(), name, "histogram", help);
        Family::new(move |values| metrics.with_label_values(values))
    }

    /// Registers a histogram of seconds.
    pub fn histogram(&self, name: &'static str, help: &'static str) -> Histogram {
        self.histograms::<()>(name, help).get(()).clone()
    }

    /// What was registered, by name.
    pub fn describe(&self) -> Vec<Description> {
        let mut all = self.descriptions.lock().unwrap_or_else(PoisonError::into_inner).clone();
        all.sort_by_key(|description| description.name);
        all
    }

    /// All values in Prometheus' text format.
    ///
    /// # Errors
    /// None is known: the buffer grows as needed. What the encoder reports is passed on.
    pub fn encode(&self) -> Result<Vec<u8>, prometheus::Error> {
        let mut text = Vec::with_capacity(64 << 10);
        TextEncoder::new().encode(&self.metrics.gather(), &mut text)?;
        Ok(text)
    }
}

const VALID: &str = "names and labels of metrics are valid: the golden test registers all of them";

impl Labels for () {
    const COUNT: usize = 1;

    fn keys() -> Vec<&'static str> {
        Vec::new()
    }

    fn all() -> Vec<Self> {
        vec![()]
    }

    fn values(self) -> Vec<&'static str> {
        Vec::new()
    }

    fn index(self) -> usize {
        0
    }
}

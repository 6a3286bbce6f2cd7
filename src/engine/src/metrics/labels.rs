//! Labels come from closed sets: a value that is not in the enum cannot be counted.

/// Values of one or more labels, all of them known when the program is built.
pub trait Labels: Copy + 'static {
    /// How many combinations there are.
    const COUNT: usize;

    /// Names of the labels.
    fn keys() -> Vec<&'static str>;

    /// All combinations, in the order of [`Labels::index`].
    fn all() -> Vec<Self>;

    /// The values, in the order of [`Labels::keys`].
    fn values(self) -> Vec<&'static str>;

    /// Position among all combinations.
    fn index(self) -> usize;
}

impl<A: Labels, B: Labels> Labels for (A, B) {
    const COUNT: usize = A::COUNT * B::COUNT;

    fn keys() -> Vec<&'static str> {
        [A::keys(), B::keys()].concat()
    }

    fn all() -> Vec<Self> {
        A::all().into_iter().flat_map(|a| B::all().into_iter().map(move |b| (a, b))).collect()
    }

    fn values(self) -> Vec<&'static str> {
        [self.0.values(), self.1.values()].concat()
    }

    fn index(self) -> usize {
        self.0.index() * B::COUNT + self.1.index()
    }
}

/// Declares a label: the enum of its values, its name and the text of each value.
#[macro_export]
macro_rules! label {
    ($(#[$doc:meta])* $visibility:vis enum $name:ident: $key:literal {
        $($(#[$variant_doc:meta])* $variant:ident = $text:literal,)*
    }) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        $visibility enum $name {
            $($(#[$variant_doc])* $variant,)*
        }

        impl $crate::metrics::Labels for $name {
            const COUNT: usize = [$($text),*].len();

            fn keys() -> Vec<&'static str> {
                vec![$key]
            }

            fn all() -> Vec<Self> {
                vec![$(Self::$variant),*]
            }

            fn values(self) -> Vec<&'static str> {
                vec![match self { $(Self::$variant => $text),* }]
            }

            fn index(self) -> usize {
                self as usize
            }
        }
    };
}

//! How long CAs and serving certificates last, and every interval that follows from it.

use jiff::SignedDuration;
use thiserror::Error;

/// The lifetimes that an operator chooses. Every other interval follows from these.
#[derive(Clone, Copy, Debug)]
pub struct Lifetimes {
    /// Of a CA.
    pub ca: SignedDuration,
    /// Of a serving certificate.
    pub leaf: SignedDuration,
    /// How long an API server may take to use a `caBundle` after it was written.
    pub settle: SignedDuration,
}

/// Why lifetimes do not fit together.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum LifetimeError {
    #[error("a serving certificate must last longer than six certificate intervals")]
    Leaf,
    #[error("a CA must last more than three times as long as a serving certificate and its clock allowances")]
    Ca,
}

/// Replicas whose clocks are wrong by up to five minutes each way differ by at most this.
const LARGEST_SKEW: SignedDuration = SignedDuration::from_mins(10);

impl Lifetimes {
    /// Checks that a CA lives long enough to be replaced before its end.
    ///
    /// # Errors
    /// If a lifetime is too short; the error names it.
    pub fn check(&self) -> Result<(), LifetimeError> {
        if self.leaf <= self.settle {
            return Err(LifetimeError::Leaf);
        }
        if self.replace_ca() < self.settle_anywhere() + self.outlive() {
            return Err(LifetimeError::Ca);
        }
        Ok(())
    }

    /// A CA is replaced when this much of its life is left.
    pub fn replace_ca(&self) -> SignedDuration {
        self.ca / 3
    }

    /// A serving certificate is replaced when this much of its life is left.
    pub fn replace_leaf(&self) -> SignedDuration {
        self.leaf / 3
    }

    /// How much the clocks of two replicas may differ: ten minutes, or a twelfth of a serving
    /// certificate's life if that is less.
    pub fn skew(&self) -> SignedDuration {
        LARGEST_SKEW.min(self.leaf / 12)
    }

    /// [`settle`](Self::settle) when one replica's clock stamped the start and another's reads it.
    pub fn settle_anywhere(&self) -> SignedDuration {
        self.settle + self.skew()
    }

    /// How long a CA is trusted after another one signs in its place: the life of the last serving
    /// certificate that it signed, plus a twelfth. The twelfth covers [`skew`](Self::skew), because
    /// one replica's clock stamps the end and another's reads it; what is left covers the time
    /// between a replica's decision to replace the CA and its write.
    pub fn outlive(&self) -> SignedDuration {
        self.leaf + self.leaf / 12
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lifetimes(ca: i64, leaf: i64, settle: i64) -> Lifetimes {
        let [ca, leaf, settle] = [ca, leaf, settle].map(SignedDuration::from_secs);
        Lifetimes { ca, leaf, settle }
    }

    #[test]
    fn a_ca_must_outlive_its_replacement() {
        // settle 60, skew 600, outlive 86400 + 7200.
        assert_eq!(lifetimes(3 * 94_260, 86_400, 60).check(), Ok(()));
        assert_eq!(lifetimes(3 * 94_260 - 3, 86_400, 60).check(), Err(LifetimeError::Ca));
    }

    #[test]
    fn a_serving_certificate_must_last_longer_than_settle() {
        assert_eq!(lifetimes(1000, 61, 60).check(), Ok(()));
        assert_eq!(lifetimes(1000, 60, 60).check(), Err(LifetimeError::Leaf));
    }

    #[test]
    fn skew_is_ten_minutes_or_a_twelfth_of_a_short_life() {
        assert_eq!(lifetimes(0, 86_400, 60).skew(), SignedDuration::from_mins(10));
        assert_eq!(lifetimes(0, 12, 1).skew(), SignedDuration::from_secs(1));
    }
}

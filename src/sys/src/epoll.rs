//! Readiness: epoll, eventfd, signalfd, timerfd.

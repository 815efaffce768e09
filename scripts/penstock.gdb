# For gdb and penstock-sim, in the repository's folder:
#
#   gdb -x scripts/penstock.gdb --args target/release/penstock-sim demo
#   (gdb) break Worker::consume_handshakes
#   (gdb) run
#
# The simulator tells gdb of penstock.sys when it has loaded it: functions, what was inlined into them, lines, frames.
# Where a backtrace goes from the driver to the simulator, or back, it says <signal handler called>.

# A breakpoint in the driver waits until it is loaded.
set breakpoint pending on
# What the driver does wrong comes to the simulator by these; it says what it was.
handle SIGSEGV SIGBUS SIGILL SIGFPE nostop noprint pass

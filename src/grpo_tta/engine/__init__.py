"""What every adaptation method uses: the frozen policy, encoded views, per-image parameters, the gradient loop."""

"""Two S3 servers for tests: moto's, which honours conditions, and rclone's, which checks who asks.

Neither is enough alone. moto refuses a second ``If-None-Match: *`` and answers ranges rightly, but
lets anybody in and forgets all when it ends; rclone's (:mod:`deployments.storage`) checks
signatures and keeps plain files, but overwrites whatever the condition, and has the wrong status
for a range.
"""

from benchmarks.moto import BUCKET, Moto

__all__ = ["BUCKET", "Moto"]

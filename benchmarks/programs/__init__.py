# SPDX-License-Identifier: Apache-2.0
"""What a person writes who does without this project: one program for each way to do it."""

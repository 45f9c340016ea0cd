# SPDX-License-Identifier: Apache-2.0
"""The process that runs user code.

It imports the standard library only, and nothing of the rest of this project: the folder is loaded by
its path into whatever interpreter the user names, from Python 3.8 on.
"""

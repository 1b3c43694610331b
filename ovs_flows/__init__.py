"""The Open vSwitch pipeline as data: flows declared, encoded, installed and compared."""
